"""Which learning rate is best, by rule; and when a training error was reached. Arithmetic on reports alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workers.reports import ErrorsReport

WINDOW_EPOCHS = 0.5
"""An error is a mean over the reports of about this much training."""


@dataclass(frozen=True, kw_only=True)
class Point:
    epoch: float
    error: float
    """Top-1 error in training, 0 to 1."""


def error_at_end(reports: Sequence[ErrorsReport], epochs: float) -> float | None:
    """Mean training error over the last half epoch of the first `epochs`; None if they have not been trained."""
    # The last step of a run may lie a little beyond its epochs.
    end = next((one.epoch for one in reports if one.epoch >= epochs - 1e-6), None)
    if end is None:
        return None
    return _mean([one for one in reports if end - WINDOW_EPOCHS + 1e-6 < one.epoch <= end])


def best_rate(errors: Mapping[float, float | None]) -> float:
    """The rate with the lowest error; of equals the lowest rate. None: training diverged. Raises ValueError if all did."""
    found = {rate: error for rate, error in errors.items() if error is not None}
    if not found:
        raise ValueError("every rate diverged")
    return min(sorted(found), key=lambda rate: found[rate])


def next_rate(errors: Mapping[float, float | None]) -> float | None:
    """A further rate to try because the best lies at an edge of those tried: the same ratio onwards; None if it does not."""
    rates, best = sorted(errors), best_rate(errors)
    if len(rates) < 2:
        return None
    if best == rates[0]:
        return _round(best * rates[0] / rates[1])
    return _round(best * rates[-1] / rates[-2]) if best == rates[-1] else None


def smoothed(reports: Sequence[ErrorsReport]) -> list[Point]:
    """The mean training error over each stretch of WINDOW_EPOCHS that ends with a report, at the stretch's middle."""
    points, before = [], 0.0
    starts = [before, *(one.epoch for one in reports)]
    for end in range(1, len(reports) + 1):
        first = end - 1
        while first > 0 and starts[end] - starts[first] < WINDOW_EPOCHS - 1e-6:
            first -= 1
        if starts[end] - starts[first] >= WINDOW_EPOCHS - 1e-6:
            middle = (starts[first] + starts[end]) / 2
            points.append(Point(epoch=middle, error=_mean(reports[first:end])))
    return points


def epochs_to(points: Sequence[Point], target: float) -> float | None:
    """Epochs until the error first was `target`, between two points by a straight line; None if it never was."""
    for before, after in zip([None, *points], points, strict=False):
        if after.error <= target:
            if before is None:
                return after.epoch
            share = (before.error - target) / (before.error - after.error)
            return before.epoch + share * (after.epoch - before.epoch)
    return None


def _mean(reports: Sequence[ErrorsReport]) -> float:
    images = sum(one.images for one in reports)
    return float(sum(one.top1_error * one.images for one in reports) / images)


def _round(rate: float) -> float:
    """To two digits: a rate becomes part of a run's name."""
    return float(f"{rate:.2g}")
