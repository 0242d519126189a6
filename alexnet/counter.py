"""Random numbers as pure functions of what they are for: a counter hash, the same in numpy and in torch.

A draw is named by integers (seed, epoch, position, ...) and depends on nothing else: not on the process that makes it,
nor on what was drawn before. The mixer is SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014).
"""

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

VERSION = 1
"""Of the draws made from these functions; it rises when any of them changes, so that old runs can be told apart."""

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None))


def mix(values: U64) -> U64:
    """A bijection of 64-bit integers that leaves no visible trace of its argument's pattern."""
    for shift, multiplier in MULTIPLIERS:
        values = values ^ (values >> np.uint64(shift))
        if multiplier is not None:
            values = values * np.uint64(multiplier)
    return values


def keys(*names: int | npt.NDArray[np.integer]) -> U64:
    """A 64-bit key for each combination of the names, which broadcast against each other."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for name in names:
            state = mix(state + np.asarray(name).astype(np.uint64) + np.uint64(GOLDEN))
    return np.atleast_1d(state)


def uniforms(values: U64) -> npt.NDArray[np.float64]:
    """Numbers above 0 and at most 1 (1 by rounding, once in 2**53), from the upper 53 bits of each key."""
    return ((values >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def integers(values: U64, below: int) -> npt.NDArray[np.int64]:
    """Integers in [0, below), from the upper 32 bits of each key; below is at most 2**31."""
    return ((values >> np.uint64(32)) * np.uint64(below) >> np.uint64(32)).astype(np.int64)


def normals(values: U64) -> npt.NDArray[np.float64]:
    """Standard normal numbers, one per key (Box and Muller)."""
    first, second = uniforms(mix(values + np.uint64(1))), uniforms(mix(values + np.uint64(2)))
    return np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)
