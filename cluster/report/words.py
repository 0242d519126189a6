"""Numbers and names as they stand on the page."""

import math
import re

DASH = "–"
HARD = "\N{NO-BREAK SPACE}"


def percent(share: float | None, digits: int = 1) -> str:
    """0.407 -> 40.7 %; a dash for None and NaN."""
    if share is None or math.isnan(share):
        return DASH
    return f"{100 * share:.{digits}f}{HARD}%"


def probable(probability: float) -> str:
    """A probability in whole per cent, which says neither 0 nor 100 of what is not quite so."""
    if 0 < probability < 0.01:
        return f"<{HARD}1{HARD}%"
    return f">{HARD}99{HARD}%" if 0.99 < probability < 1 else percent(probability, 0)


def points(difference: float | None, digits: int = 1) -> str:
    """A difference of shares in points of per cent, with its sign: 0.017 -> +1.7."""
    if difference is None or math.isnan(difference):
        return DASH
    text = f"{100 * difference:+.{digits}f}"
    return f"±{text[1:]}" if not float(text) else text.replace("-", "−")


def short_name(name: str, most: int = 26) -> str:
    """A class's name as a caption: without its number in WordNet, the first of several names, not too long."""
    words = re.sub(r"^n\d{8}[\s_-]+", "", name).split(",")[0].replace("_", " ").strip() or name
    return words if len(words) <= most else f"{words[: most - 1].rstrip()}…"


def plain(text: str) -> str:
    """For matplotlib, which takes a dollar sign for the beginning of a formula."""
    return text.replace("$", r"\$")
