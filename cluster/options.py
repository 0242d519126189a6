"""Command lines: how every command introduces itself, and kinds of values: places, checksums and numbers within limits."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def command_parser(name: str, description: str | None, examples: str, **more: Any) -> argparse.ArgumentParser:
    """Of `python -m cluster.NAME`. description and examples are shown as they stand, before and after the options."""
    return argparse.ArgumentParser(
        f"python -m cluster.{name}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,
    )


def location(text: str) -> Path:
    """The one place where what people type becomes a place of files."""
    if re.match(r"[a-z][a-z0-9+.-]+://", text):
        raise argparse.ArgumentTypeError(f"{text} is an address: give a path of this machine")
    try:
        return Path(text).expanduser()  # which shells leave alone behind `--out=`
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def is_setting(word: str) -> bool:
    """Of a command line: `key=value`, unless there is a file or folder of that name."""
    return "=" in word and not Path(word).exists()


def checksum(text: str) -> str:
    from cluster.download import CHECKSUM

    if not CHECKSUM.fullmatch(text.lower()):
        raise argparse.ArgumentTypeError(f"{text!r} is neither md5: and 32 nor sha256: and 64 hexadecimal digits")
    return text.lower()


def number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not within {low:g}..{high:g}")
        return value

    return parse
