"""Names of files, in folders and in archives: which are images, which to pass over, and how they become keys."""

import os
from collections import Counter

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"))
# What systems strew into folders and archives; compared in lower case.
SYSTEM_FILES = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information", "@eadir")
)


def is_hidden(name: str) -> bool:
    """Whether to pass over a file or folder without a word: .DS_Store, ._x, Thumbs.db and their like."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def is_image(name: str) -> bool:
    """Whether a name is that of an image. What is in the file, decoding will tell."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_hidden(name)


def utf8(name: str) -> str:
    """File names need not be UTF-8; keys and class names must be."""
    return os.fsencode(name).decode("utf-8", "replace")


def safe(name: str) -> str:
    """A name from an archive as a key, or part of one: UTF-8, no control characters, so that it can be printed."""
    return "".join(character if character.isprintable() else "?" for character in utf8(name))


def parts(name: str) -> list[str]:
    """The parts of a path in an archive, whichever way its slashes lean."""
    return [part for part in name.replace("\\", "/").split("/") if part]


def last_part(name: str) -> str:
    """Of a path in an archive; empty if it has none."""
    return (parts(name) or [""])[-1]


def in_words(left_out: Counter[str]) -> tuple[str, ...]:
    """Notes for the user, from counts of what was left out while listing."""
    return tuple(f"left out {count:,} {what}" for what, count in sorted(left_out.items()))
