"""The one exception for mistakes that the person at the keyboard can put right."""


class UserError(Exception):
    """Bad input or a bad setting: the message says what is wrong, where, and what to do.

    Entry points print the message without a traceback and exit with code 2.
    """


RAISED = f"{UserError.__module__}.{UserError.__name__}: "
"""What the last line of its traceback begins with."""


def last_raised(text: str) -> str:
    """The line of a traceback that says what was raised in the end, a UserError without its name; if `text` has none, its first
    line."""
    return _last(text).removeprefix(RAISED)


def is_user_error(text: str) -> bool:
    """Whether the traceback in it ends with a UserError."""
    return _last(text).startswith(RAISED)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if line.startswith((RAISED, "ray::")) or "Error: " in line]
    return raised[-1] if raised else "".join(lines[:1])
