"""What becomes of odd files and of damaged ones: chunk by chunk, without Ray."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tests.data.pictures import encode, jpeg
from workers.data.ingest import make_shard
from workers.data.shards import Shard
from workers.data.sources import FolderSource

SIZE = 40
PLAIN = jpeg(1, SIZE, SIZE)


def photo(mode: str = "RGB") -> Image.Image:
    return Image.open(io.BytesIO(PLAIN)).convert(mode)


def inks(last: Image.Image, first_three: Image.Image, transform: int) -> bytes:
    """A JPEG of four inks: CMYK (transform 0) or YCCK (2), as Adobe's programs write it."""
    planes = np.concatenate([np.asarray(first_three), np.asarray(last)[:, :, None]], axis=2)
    data = bytearray(encode(Image.fromarray(255 - planes, "CMYK"), quality=95, subsampling=0))
    data[data.index(b"Adobe") + 11] = transform
    assert simplejpeg.decode_jpeg_header(bytes(data))[2] == ("YCCK" if transform else "CMYK")
    return bytes(data)


def with_exif(data: bytes, exif: bytes) -> bytes:
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + data[2:]


def sixteen_bit_colour() -> bytes:
    """A PNG of 16 bits a channel, whose lower bytes are noise; Pillow cannot write one."""
    upper = np.asarray(photo())
    lower = np.random.default_rng(0).integers(0, 256, upper.shape, dtype=np.uint8)
    rows = np.stack([upper, lower], axis=-1).reshape(SIZE, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)

    def part(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = part(b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(lines)) + part(b"IEND", b"")


WHOLE: dict[str, Callable[[], bytes]] = {
    "plain": lambda: PLAIN,
    "progressive": lambda: encode(photo(), quality=90, progressive=True),
    "halved sideways": lambda: encode(photo(), quality=90, subsampling=1),
    "quartered sideways": lambda: encode(photo(), quality=90, subsampling="4:1:1"),
    "rgb jpeg": lambda: encode(photo(), quality=90, keep_rgb=True),
    "restart marks": lambda: encode(photo(), quality=90, restart_marker_blocks=2),
    "grey": lambda: encode(photo("L"), quality=90),
    "cmyk": lambda: inks(photo("L"), photo(), 0),
    "ycck": lambda: inks(photo("L"), photo("YCbCr"), 2),
    "cmyk by pillow": lambda: encode(photo("CMYK"), quality=90),
    "png": lambda: encode(photo(), "PNG"),
    "gif": lambda: encode(photo("P"), "GIF"),
    "animation": lambda: encode(photo("P"), "GIF", save_all=True, append_images=[Image.new("P", (SIZE, SIZE))]),
    "webp": lambda: encode(photo(), "WEBP", quality=80),
    "bmp": lambda: encode(photo(), "BMP"),
    "tiff": lambda: encode(photo(), "TIFF", compression="tiff_lzw"),
    "ppm": lambda: encode(photo(), "PPM"),
    "two levels": lambda: encode(photo("1"), "PNG"),
    "palette": lambda: encode(photo("P"), "PNG"),
    "palette with transparency": lambda: encode(photo("P"), "PNG", transparency=bytes(range(0, 250, 2))),
    "alpha": lambda: encode(photo("RGBA"), "PNG"),
    "hidden colours": lambda: encode(
        Image.merge("RGBA", [*photo().split(), Image.new("L", (SIZE, SIZE), 0)]), "WEBP", lossless=True, exact=True
    ),
    "grey with alpha": lambda: encode(photo("LA"), "PNG"),
    "16 bit colour": sixteen_bit_colour,
    "turned": lambda: with_exif(PLAIN, b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    "broken exif": lambda: with_exif(PLAIN, b"MM\0*\xff\xff\xff\xff\0\x01\x01\x12"),
    "other exif": lambda: with_exif(PLAIN, b"\0\0\0\0garbage"),
    "unknown jfif": lambda: PLAIN.replace(b"JFIF\0\x01", b"JFIF\0\x07", 1),
    "trailing bytes": lambda: PLAIN + b"left over from another file" * 3,
    "trailing zeros": lambda: PLAIN + bytes(1000),
    "bytes before the end": lambda: PLAIN[:-2] + b"\x12\x34\xff\xd9",
}
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "truncated": (PLAIN[:-100], "damaged JPEG"),
    "truncated and closed": (PLAIN[:-100] + b"\xff\xd9", "damaged JPEG"),
    "truncated png": (encode(photo(), "PNG")[:-100], "cannot be decoded"),
    "head only": (PLAIN[:20], "damaged JPEG"),
    "garbage": (b"not a picture at all" * 100, "no known picture format"),
    "html": (b"<html><body>404 not found</body></html>", "no known picture format"),
}


def pillow(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture
def odd(tmp_path: Path) -> FolderSource:
    """Every oddity under a name that ends in .JPEG, as in ImageNet, and a class of one plain picture."""
    odd, plain = tmp_path / "in/odd", tmp_path / "in/plain"
    odd.mkdir(parents=True)
    plain.mkdir()
    files = {name: make() for name, make in WHOLE.items()} | {name: data for name, (data, _) in BAD.items()}
    for name, data in files.items():
        (odd / f"{name}.JPEG").write_bytes(data)
    (plain / "1.JPEG").write_bytes(jpeg(2, SIZE, SIZE))
    return FolderSource(tmp_path / "in", 0)


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_every_oddity_becomes_what_pillow_makes_of_it(odd: FolderSource, tmp_path: Path, encoding: Any) -> None:
    (chunk,) = odd.chunks("train", 1000)
    result = make_shard(odd, chunk, tmp_path, "x.arrow", SIZE, 100, encoding=encoding)
    reasons = {Path(image.key).stem: image.reason for image in result.quarantined}
    assert set(reasons) == set(BAD)
    for name, reason in reasons.items():
        assert BAD[name][1] in reason, f"{name}: {reason}"
    shard = Shard(tmp_path / "x.arrow")
    stored = {Path(shard.key(row)).stem: shard.image(row) for row in range(len(shard))}
    assert set(stored) == {*WHOLE, "1"}
    for name, make in WHOLE.items():
        raw, data = encoding == "raw", stored[name]
        pixels = data.reshape(SIZE, SIZE, 3) if raw else simplejpeg.decode_jpeg(data, "RGB", strict=True)
        allowed = 2 if raw else 8
        furthest = np.abs(pixels.astype(int) - pillow(make())).max()
        assert furthest <= allowed, f"{name}: {furthest} levels"


def test_flipped_bytes_never_lead_to_a_record_that_does_not_decode(tmp_path: Path) -> None:
    """500 files with 1 to 8 flipped bytes anywhere; half of them have the stored size, so that they might be kept as they are."""
    rng = np.random.default_rng(2012)
    for name in "ab":
        (tmp_path / "in" / name).mkdir(parents=True)
    for number in range(500):
        whole = jpeg(number % 25, SIZE, SIZE) if number % 2 else encode(photo().resize((90, 70)), progressive=True)
        data = bytearray(whole)
        for position in rng.integers(0, len(data), rng.integers(1, 9)):
            data[position] ^= int(rng.integers(1, 256))
        (tmp_path / f"in/{'ab'[number % 2]}/{number:03d}.jpg").write_bytes(data)
    source = FolderSource(tmp_path / "in", 0)
    (chunk,) = source.chunks("train", 500)
    result = make_shard(source, chunk, tmp_path, "x.arrow", SIZE, 95)
    shard = Shard(tmp_path / "x.arrow")
    assert len(shard) + len(result.quarantined) == 500
    assert min(len(shard), len(result.quarantined)) > 50
    for row in range(len(shard)):
        shard.verify_row(row)
        assert simplejpeg.decode_jpeg(shard.image(row), "RGB", strict=True).shape == (SIZE, SIZE, 3)
