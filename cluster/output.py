"""The standard streams of a command: what it says on its way may be lost, and never ends it; what it is for may not."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class OutputLostError(Exception):
    """What a command is for could not be written. `cause`: a pipe that nobody reads, a full disk, a terminal that was closed."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror)
        self.cause = cause


class Output:
    """A text stream. expendable: whether it loses what cannot be written, or raises OutputLostError."""

    def __init__(self, stream: TextIO, *, expendable: bool) -> None:
        self._stream, self._expendable = stream, expendable

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Any, *arguments: str) -> None:
        try:
            action(*arguments)
        except OSError as error:
            if not self._expendable:
                raise OutputLostError(error) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def command_output(*, expendable: bool) -> Iterator[None]:
    """Within, stdout is expendable or not, and stderr is: no command's result is what it says there.

    A stream that was closed by whoever started this process leads nowhere, lest a file be opened in its place. What an encoding
    lacks is shown by escapes.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # It gets the lowest free number: this very one, as those below it are open.
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115 - open to the end
    before = {"stdout": sys.stdout, "stderr": sys.stderr}
    for name, stream in before.items():
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Output(stream, expendable=expendable or name == "stderr"))
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)
            try:
                stream.flush()
            except OSError:
                # What is in its buffer has nowhere to go, or Python would try again when it exits.
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def tell_at_once(text: str) -> None:
    """To stderr, from a signal handler: `print` there may meet another one half way, and raises where nobody reads."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
