"""How contenders are compared: they take turns in one run, and medians stand beside their range."""

import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

WARM_UP = 2


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown processor"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def spread(seconds: list[float]) -> str:
    """Median and range in milliseconds."""
    return f"{statistics.median(seconds) * 1e3:,.1f} ms ({min(seconds) * 1e3:,.1f} to {max(seconds) * 1e3:,.1f})"


def interleave(turns: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, warm-up left out; who goes first changes from round to round."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    names = list(turns)
    for number in range(WARM_UP + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds = turns[name]()
            if number >= WARM_UP:
                times[name].append(seconds)
        print(
            f"round {number + 1 - WARM_UP} of {rounds}" if number >= WARM_UP else "warming up",
            file=sys.stderr,
            flush=True,
        )
    return times


def show(times: Mapping[str, list[float]], opponent: str, images: int | None = None) -> None:
    """Print a line for each contender: images/s if `images` says how many a turn takes, milliseconds, ratio to the opponent."""
    theirs = statistics.median(times[opponent])
    for name, seconds in times.items():
        ours = statistics.median(seconds)
        rate = f"{images / ours:8.1f} images/s  " if images else ""
        print(f"  {name:<34}{rate}{spread(seconds):<36}{theirs / ours:5.2f}x {opponent}")
