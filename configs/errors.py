"""The one exception for mistakes that the person at the keyboard can put right; and which errors may go away by themselves."""

import errno
import re
from typing import Literal

Nature = Literal["away", "wrong", "full"]
"""Of a failure. away: a process, a node, a network or a storage does not answer now, and another try may find it. wrong: the same
would happen again (wrong input, a loss that is no number). full: a disk is, and somebody must make room."""
FULL = (errno.ENOSPC, errno.EDQUOT)
WRONG = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""Of an operating system's errors, those that stay. All others are taken for outages: a try too many costs seconds."""
OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""As libraries written in Rust say it (safetensors), in errors of their own kind."""
OWN = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""A loss that is no number, and mistakes of ours."""


class UserError(Exception):
    """Bad input or a bad setting: the message says what is wrong, where, and what to do.

    Entry points print the message without a traceback and exit with code 2.
    """

    nature: Nature = "wrong"


class UnreachableError(UserError):
    """A place that does not answer, though it may later: a wrong address, or an outage."""

    nature: Nature = "away"


def nature_of(error: BaseException) -> Nature:
    """An error may say so itself, in an attribute `nature`."""
    own: Nature | None = getattr(error, "nature", None)
    if own is not None:
        return own
    inside = OS_ERROR.search(str(error))
    if inside or isinstance(error, OSError):
        number = int(inside[1]) if inside else getattr(error, "errno", None)
        return "full" if number in FULL else "wrong" if number in WRONG else "away"
    return "wrong" if isinstance(error, OWN) else "away"


def about_os(cause: OSError, text: str) -> UserError:
    """Of the cause's nature."""
    nature = nature_of(cause)
    error = UnreachableError(text) if nature == "away" else UserError(text)
    error.nature = nature
    return error


RAISED = {kind: f"{kind.__module__}.{kind.__name__}: " for kind in (UserError, UnreachableError)}
"""What the last line of its traceback begins with."""


def last_raised(text: str) -> str:
    """The line of a traceback that says what was raised in the end, a UserError without its name; if `text` has none, its first
    line."""
    line = _last(text)
    for name in RAISED.values():
        line = line.removeprefix(name)
    return line


def is_user_error(text: str, kind: type[UserError] = UserError) -> bool:
    """Whether the traceback in it ends with just this kind of UserError."""
    return _last(text).startswith(RAISED[kind])


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if line.startswith("ray::") or "Error: " in line]
    return raised[-1] if raised else "".join(lines[:1])
