"""Which errors may be over soon."""

import errno
import pickle

import pytest
from safetensors import SafetensorError

from configs.errors import Nature, UnreachableError, UserError, about_os, is_user_error, last_raised, nature_of


@pytest.mark.parametrize(
    ("error", "nature"),
    [
        (UserError("no such class"), "wrong"),
        (FloatingPointError("the loss is nan"), "wrong"),
        (OSError(errno.EACCES, "Permission denied"), "wrong"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "wrong"),
        (OSError(errno.ENOSPC, "No space left on device"), "full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "full"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "full"),
        (UnreachableError("no answer"), "away"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "away"),
        (TimeoutError("no answer"), "away"),
        (OSError(errno.ESTALE, "Stale file handle"), "away"),
        (RuntimeError("CUDA error"), "away"),
    ],
)
def test_nature(error: Exception, nature: Nature) -> None:
    assert nature_of(error) == nature
    if isinstance(error, OSError):
        told = pickle.loads(pickle.dumps(about_os(error, "words")))  # as it comes out of an actor
        assert (nature_of(told), str(told), isinstance(told, UnreachableError)) == (nature, "words", nature == "away")


@pytest.mark.parametrize(
    ("kind", "wrong"), [("configs.errors.UserError", True), ("configs.errors.UnreachableError", False)]
)
def test_in_a_traceback(kind: str, wrong: bool) -> None:
    text = f"The actor died.\n  File x\n{kind}: no answer"
    assert (last_raised(text), is_user_error(text)) == ("no answer", wrong)
