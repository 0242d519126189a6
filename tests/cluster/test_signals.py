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
    """Those of a caller, one per signal; whatever a test does, the ones of this process come back."""
    mine: list[Any] = [lambda number, frame: None for _ in SIGNALS]
    before = list(map(signal.signal, SIGNALS, mine))
    yield mine
    list(map(signal.signal, SIGNALS, before))


def send(number: int) -> None:
    # Python runs the handler of a signal that the process sends itself before kill() returns.
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_is_gentle_and_second_raises(handlers: list[Any], number: int, capfd: pytest.CaptureFixture[str]) -> None:
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
    assert [signal.getsignal(number) for number in SIGNALS] == handlers, "they are put back"


@pytest.mark.parametrize("number", SIGNALS)
def test_not_gentle_raises_at_once(handlers: list[Any], number: int) -> None:
    with pytest.raises(Interrupted) as caught, StopSignals() as signals:
        send(number)
    assert caught.value.number == signals.requested == number
    # `except Exception` anywhere on the way must not swallow it, and Ctrl-C stays Ctrl-C to whoever expects that.
    assert isinstance(caught.value, KeyboardInterrupt)
    assert not isinstance(caught.value, Exception)
    assert [signal.getsignal(number) for number in SIGNALS] == handlers, "they are put back"


def test_what_was_started_to_outlive_its_terminal_does() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with StopSignals() as signals:
        send(signal.SIGHUP)
        assert signals.requested is None
