"""What becomes of odd files, of damaged ones, and of a preparation that was cut off: chunk by chunk, without Ray."""

import dataclasses
import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from configs.errors import UserError
from tests.data.pictures import draw_folders, encode, jpeg
from workers.data.images import to_square
from workers.data.ingest import ChunkResult, make_shard
from workers.data.journal import NOTE_SUFFIX, Preparation, Settings, begin, differences, end, recall_or_make
from workers.data.shards import Shard, file_sha256
from workers.data.sources import Chunk, FolderSource

ROOT = Path(__file__).parents[2]
SIZE = 40
RAW = Settings(size=SIZE, quality=95, shard_rows=5, encoding="raw", apply_orientation=False)


def photo(mode: str = "RGB") -> Image.Image:
    return Image.open(io.BytesIO(jpeg(1, SIZE, SIZE))).convert(mode)


def inks(last: Image.Image, first_three: Image.Image, transform: int) -> bytes:
    """A JPEG of four inks: CMYK (transform 0) or YCCK (2), as Adobe's programs write it."""
    planes = np.concatenate([np.asarray(first_three), np.asarray(last)[:, :, None]], axis=2)
    data = bytearray(encode(Image.fromarray(255 - planes, "CMYK"), quality=95, subsampling=0))
    data[data.index(b"Adobe") + 11] = transform
    assert simplejpeg.decode_jpeg_header(bytes(data))[2] == ("YCCK" if transform else "CMYK")
    return bytes(data)


def with_exif(data: bytes, exif: bytes) -> bytes:
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + data[2:]


def palette_with_transparency() -> bytes:
    return encode(photo("P"), "PNG", transparency=bytes(range(0, 250, 2)))


def animation() -> bytes:
    frames = [photo("P"), Image.new("P", (SIZE, SIZE))]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


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
    "plain": lambda: jpeg(1, SIZE, SIZE),
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
    "animation": animation,
    "webp": lambda: encode(photo(), "WEBP", quality=80),
    "bmp": lambda: encode(photo(), "BMP"),
    "tiff": lambda: encode(photo(), "TIFF", compression="tiff_lzw"),
    "ppm": lambda: encode(photo(), "PPM"),
    "two levels": lambda: encode(photo("1"), "PNG"),
    "palette": lambda: encode(photo("P"), "PNG"),
    "palette with transparency": palette_with_transparency,
    "alpha": lambda: encode(photo("RGBA"), "PNG"),
    "hidden colours": lambda: encode(
        Image.merge("RGBA", [*photo().split(), Image.new("L", (SIZE, SIZE), 0)]), "WEBP", lossless=True, exact=True
    ),
    "grey with alpha": lambda: encode(photo("LA"), "PNG"),
    "16 bit colour": sixteen_bit_colour,
    "turned": lambda: with_exif(
        jpeg(1, SIZE, SIZE), b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
    "broken exif": lambda: with_exif(jpeg(1, SIZE, SIZE), b"MM\0*\xff\xff\xff\xff\0\x01\x01\x12"),
    "other exif": lambda: with_exif(jpeg(1, SIZE, SIZE), b"\0\0\0\0garbage"),
    "unknown jfif": lambda: jpeg(1, SIZE, SIZE).replace(b"JFIF\0\x01", b"JFIF\0\x07", 1),
    "trailing bytes": lambda: jpeg(1, SIZE, SIZE) + b"left over from another file" * 3,
    "trailing zeros": lambda: jpeg(1, SIZE, SIZE) + bytes(1000),
    "bytes before the end": lambda: jpeg(1, SIZE, SIZE)[:-2] + b"\x12\x34\xff\xd9",
}
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "truncated": (jpeg(1, SIZE, SIZE)[:-100], "damaged JPEG"),
    "truncated and closed": (jpeg(1, SIZE, SIZE)[:-100] + b"\xff\xd9", "damaged JPEG"),
    "truncated png": (encode(photo(), "PNG")[:-100], "cannot be decoded"),
    "head only": (jpeg(1, SIZE, SIZE)[:20], "damaged JPEG"),
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
    for name, make in WHOLE.items():
        (tmp_path / "in/odd").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in/odd" / f"{name}.JPEG").write_bytes(make())
    for name, (data, _) in BAD.items():
        (tmp_path / "in/odd" / f"{name}.JPEG").write_bytes(data)
    (tmp_path / "in/plain").mkdir()
    (tmp_path / "in/plain/1.JPEG").write_bytes(jpeg(2, SIZE, SIZE))
    return FolderSource(tmp_path / "in", 0)


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_every_oddity_becomes_what_pillow_makes_of_it(odd: FolderSource, tmp_path: Path, encoding: str) -> None:
    (chunk,) = odd.chunks("train", 1000)
    result = make_shard(odd, chunk, tmp_path, "x.arrow", SIZE, 100, encoding=encoding)  # type: ignore[arg-type]
    reasons = {Path(image.key).stem: image.reason for image in result.quarantined}
    assert set(reasons) == set(BAD)
    for name, reason in reasons.items():
        assert BAD[name][1] in reason, f"{name}: {reason}"
    shard = Shard(tmp_path / "x.arrow")
    stored = {Path(shard.key(row)).stem: shard.image(row) for row in range(len(shard))}
    assert set(stored) == {*WHOLE, "1"}
    for name, make in WHOLE.items():
        if encoding == "raw":
            pixels, allowed = stored[name].reshape(SIZE, SIZE, 3), 2
        else:
            pixels, allowed = simplejpeg.decode_jpeg(stored[name], "RGB", strict=True), 8
        furthest = np.abs(pixels.astype(int) - pillow(make())).max()
        assert furthest <= allowed, f"{name}: {furthest} levels"


def test_transparent_pixels_keep_the_colour_beneath() -> None:
    """All of this picture is transparent; a white or black ground would say so to the network."""
    assert np.array_equal(to_square(WHOLE["hidden colours"](), SIZE), np.asarray(photo()))


def test_orientation_is_passed_on(odd: FolderSource, tmp_path: Path) -> None:
    (chunk,) = odd.chunks("train", 1000)
    for applied in (False, True):
        make_shard(odd, chunk, tmp_path, "x.arrow", SIZE, 95, encoding="raw", apply_orientation=applied)
        shard = Shard(tmp_path / "x.arrow")
        (row,) = (row for row in range(len(shard)) if "turned" in shard.key(row))
        expected = np.rot90(pillow(WHOLE["turned"]()), -1) if applied else pillow(WHOLE["turned"]())
        assert np.array_equal(shard.image(row).reshape(SIZE, SIZE, 3), expected)


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
    assert len(shard) > 50
    assert len(result.quarantined) > 50
    for row in range(len(shard)):
        shard.verify_row(row)
        assert simplejpeg.decode_jpeg(shard.image(row), "RGB", strict=True).shape == (SIZE, SIZE, 3)


def jobs_of(source: FolderSource) -> list[tuple[Chunk, str]]:
    return [(chunk, f"train-{number:05d}-of-00002.arrow") for number, chunk in enumerate(source.chunks("train", 5))]


def preparation_of(source: FolderSource, settings: Settings) -> Preparation:
    return Preparation.of(source, jobs_of(source), settings)


def prepared(source: FolderSource, out: Path, settings: Settings) -> list[ChunkResult]:
    """What the driver does, in one process."""
    out.mkdir(exist_ok=True)
    preparation = preparation_of(source, settings)
    begin(out, preparation)
    return [recall_or_make(source, chunk, out, file, settings, preparation.identity) for chunk, file in jobs_of(source)]


def same(first: list[ChunkResult], second: list[ChunkResult]) -> bool:
    """Whether all that goes into the manifest and the mean image is the same."""
    return [content(result) for result in first] == [content(result) for result in second]


def content(result: ChunkResult) -> tuple[object, ...]:
    sums = result.sums
    arrays = (sums.pixels.tolist(), sums.products.tolist(), result.labels.tolist())
    return (result.chunk, result.info, result.quarantined, sums.images, *arrays)


@pytest.fixture
def folders(tmp_path: Path) -> FolderSource:
    return FolderSource(draw_folders(tmp_path / "in", per_class=5, size=SIZE))


def test_finished_shards_are_recalled_and_others_made(folders: FolderSource, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = prepared(folders, out, RAW)
    written = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert len(written) == 2 * 2 + 1
    assert same(prepared(folders, out, RAW), first)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == written
    # A run that was killed leaves parts of files; they go.
    (out / "train-00000-of-00002.arrow.0123abcd.tmp").write_bytes(b"x")
    (out / "train-00001-of-00002.done.npz.0123abcd.tmp").write_bytes(b"x")
    (out / "train-00001-of-00002.done.npz").unlink()
    assert same(prepared(folders, out, RAW), first)
    again = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert set(again) == set(written)
    assert sorted(path.name for path in written if again[path] != written[path]) == [
        "train-00001-of-00002.arrow",
        "train-00001-of-00002.done.npz",
    ]
    # So may a worker that outlives such a run by a moment. What is not ours stays.
    for name in ("train-00002-of-00003.arrow", "train-00000-of-00002.arrow.0123abcd.tmp", "notes.txt"):
        (out / name).write_bytes(b"x")
    shards = ["train-00000-of-00002.arrow", "train-00001-of-00002.arrow"]
    end(out, shards)
    assert sorted(path.name for path in out.iterdir()) == ["notes.txt", *shards]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm",
    [
        lambda shard, note: flip(shard),
        lambda shard, note: shard.write_bytes(shard.read_bytes()[:-1]),
        lambda shard, note: shard.unlink(),
        lambda shard, note: flip(note),
        lambda shard, note: note.write_bytes(b""),
        lambda shard, note: note.write_bytes(note.read_bytes()[:300]),
        lambda shard, note: note.write_bytes(note.with_name("train-00001-of-00002.done.npz").read_bytes()),
    ],
)
def test_what_was_damaged_in_between_is_made_again(
    folders: FolderSource, tmp_path: Path, harm: Callable[[Path, Path], object]
) -> None:
    out = tmp_path / "out"
    first = prepared(folders, out, RAW)
    shard = out / "train-00000-of-00002.arrow"
    harm(shard, out / f"train-00000-of-00002{NOTE_SUFFIX}")
    assert same(prepared(folders, out, RAW), first)
    assert first[0].info is not None
    assert file_sha256(shard) == first[0].info.sha256


def test_bad_images_may_be_repaired_before_going_on(folders: FolderSource, tmp_path: Path) -> None:
    image = tmp_path / "in/train/a/002.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    assert len(prepared(folders, tmp_path / "out", RAW)[0].quarantined) == 1
    image.write_bytes(whole)
    result = prepared(folders, tmp_path / "out", RAW)[0]
    assert (result.quarantined, result.sums.images) == ((), 5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": 32}, "size 32 instead of 40"),
        ({"encoding": "jpeg", "quality": 90}, "quality 90 instead of 95, encoding jpeg instead of raw"),
        ({"apply_orientation": True}, "apply_orientation True instead of False"),
    ],
)
def test_other_settings_start_anew(folders: FolderSource, tmp_path: Path, change: dict[str, object], told: str) -> None:
    out = tmp_path / "out"
    prepared(folders, out, dataclasses.replace(RAW, **change))  # type: ignore[arg-type]
    assert differences(out, preparation_of(folders, RAW)) == told
    assert same(prepared(folders, out, RAW), prepared(folders, tmp_path / "fresh", RAW))
    for path in (tmp_path / "fresh").glob("*.arrow"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert differences(out, preparation_of(folders, RAW)) == ""


def test_another_list_of_images_starts_anew(folders: FolderSource, tmp_path: Path) -> None:
    prepared(folders, tmp_path / "out", RAW)
    (tmp_path / "in/train/a/002.jpg").rename(tmp_path / "in/train/a/002b.jpg")
    changed = FolderSource(tmp_path / "in")
    assert differences(tmp_path / "out", preparation_of(changed, RAW)) == "other images"
    (tmp_path / "out/preparing.json").write_text("{")
    assert "damaged" in differences(tmp_path / "out", preparation_of(changed, RAW))
    assert begin(tmp_path / "out", preparation_of(changed, RAW)) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["preparing.json"]


def test_a_worker_that_outlives_its_preparation_writes_nothing(folders: FolderSource, tmp_path: Path) -> None:
    out, old = tmp_path / "out", dataclasses.replace(RAW, quality=50)
    prepared(folders, out, old)
    chunk, file = jobs_of(folders)[0]
    begin(out, preparation_of(folders, RAW))
    with pytest.raises(UserError, match=r"another preparation has begun in .*out"):
        recall_or_make(folders, chunk, out, file, old, preparation_of(folders, old).identity)
    assert [path.name for path in out.iterdir()] == ["preparing.json"]


FILLS_UP = """
import resource, signal, sys
from tests.data import test_ingest as test
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    test.prepared(test.FolderSource(sys.argv[1]), test.Path(sys.argv[2]), test.RAW)
except OSError as error:
    sys.exit(f"refused: {error.strerror}")
"""


def test_a_disk_that_refuses_leaves_nothing_half_done(folders: FolderSource, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    out = tmp_path / "out"
    line = [sys.executable, "-c", FILLS_UP, str(tmp_path / "in"), str(out)]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stderr == "refused: File too large\n"
    assert [path.name for path in out.iterdir()] == ["preparing.json"]
    assert same(prepared(folders, out, RAW), prepared(folders, tmp_path / "fresh", RAW))
