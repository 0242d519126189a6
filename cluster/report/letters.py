"""Names in pictures: with a font that has their letters, where one is installed; else by number."""

import functools
from collections.abc import Sequence

FIRST = "DejaVu Sans"
"""Comes with matplotlib."""
NOT_LETTERS = "Last Resort"
"""A font that has a box for every letter."""


def drawable(names: Sequence[str]) -> list[str]:
    """The names of classes as matplotlib can draw them from now on; those with letters that no font here has become `class 7`."""
    import matplotlib

    fonts = [font_of(name) for name in names]
    others = sorted({family for family, _ in filter(None, fonts)} - {FIRST})
    matplotlib.rcParams["font.family"] = [FIRST, *others]
    return [name if font else f"class {number}" for number, (name, font) in enumerate(zip(names, fonts, strict=True))]


def font_of(text: str) -> tuple[str, str] | None:
    """(family, file) of a font that has all letters of a text; None if none here has."""
    wanted = {ord(letter) for letter in text}
    return next((font for font in _fonts() if wanted <= _letters(font[1])), None)


@functools.cache
def _fonts() -> list[tuple[str, str]]:
    from matplotlib.font_manager import fontManager

    upright = [font for font in fontManager.ttflist if font.style == "normal" and font.weight in (400, "normal")]
    found = {font.name: font.fname for font in upright if not font.name.startswith(NOT_LETTERS)}
    return sorted(found.items(), key=lambda font: (font[0] != FIRST, font[0]))


@functools.cache
def _letters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
