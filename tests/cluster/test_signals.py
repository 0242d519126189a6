"""Stop signals, sent to this very process."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.signals import Interrupted, StopSignals

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[Any]]:
    """Of the process before; whatever a test does, they are put back."""
    before: list[Any] = [signal.getsignal(number) for number in SIGNALS]
    yield before
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def send(number: int) -> None:
    # Python runs the handler of a signal that the process sends itself before kill() returns.
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_is_gentle_and_second_raises(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    with StopSignals() as signals:
        signals.gentle = True
        send(number)
        assert signals.requested == number
        assert "again to stop at once" in capfd.readouterr().err
        # A terminal that closes says so twice.
        send(signal.SIGHUP)
        second = signal.SIGINT if number == signal.SIGHUP else number
        with pytest.raises(Interrupted) as caught:
            send(second)
    assert caught.value.number == second


@pytest.mark.parametrize("number", SIGNALS)
def test_not_gentle_raises_at_once(number: int) -> None:
    with StopSignals() as signals:
        with pytest.raises(Interrupted) as caught:
            send(number)
        assert caught.value.number == signals.requested == number
    # `except Exception` anywhere on the way must not swallow it, and Ctrl-C stays Ctrl-C to whoever expects that.
    assert isinstance(caught.value, KeyboardInterrupt)
    assert not isinstance(caught.value, Exception)


def test_what_was_started_to_outlive_its_terminal_does() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with StopSignals() as signals:
        send(signal.SIGHUP)
        assert signals.requested is None


@pytest.mark.parametrize("error", [None, ValueError])
def test_handlers_are_put_back(handlers: list[Any], error: type[Exception] | None) -> None:
    def mine(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGTERM, mine)
    try:
        with StopSignals():
            assert signal.getsignal(signal.SIGTERM) is not mine
            assert signal.getsignal(signal.SIGINT) is not handlers[0]
            if error:
                raise error
    except ValueError:
        pass
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) is handlers[0]
