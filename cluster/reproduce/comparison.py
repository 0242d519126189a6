"""Networks trained with several seeds against the full one: differences of errors, their noise, and a verdict by rule.

The noise of seeds is one number for all networks, pooled from the spread of each about its own mean: two or three seeds say
little alone. A difference is visible if it is larger than Student's t (95 %, two sides) times its standard error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviation between seeds, in the errors' units, and the degrees of freedom it was found with."""

    deviation: float
    freedom: int

    def of_difference(self, first: int, second: int) -> float:
        """How far means of so many seeds lie apart by chance, at the confidence taken."""
        from scipy.stats import t

        return float(t.ppf((1 + CONFIDENCE) / 2, self.freedom)) * self.deviation * math.sqrt(1 / first + 1 / second)


def spread(errors: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None of one alone."""
    return stdev(errors) if len(errors) > 1 else None


def pooled(groups: Mapping[str, Sequence[float]]) -> Noise | None:
    """Over all networks; None if none has two seeds."""
    freedom = sum(len(errors) - 1 for errors in groups.values() if errors)
    if freedom < 1:
        return None
    squares = math.fsum((error - fmean(errors)) ** 2 for errors in groups.values() for error in errors)
    return Noise(deviation=math.sqrt(squares / freedom), freedom=freedom)


def verdict(difference: float, limit: float | None, paper: float | None) -> str:
    """In words. limit: what chance alone explains, None if not known. paper: its difference; only the sign counts here."""
    if limit is None:
        return "noise not known: one seed each"
    if abs(difference) <= limit:
        return "within the noise of seeds"
    if paper is None:
        return "visible"
    return "visible, as in the paper" if difference * paper > 0 else "visible, contrary to the paper"
