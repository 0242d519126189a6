"""From picture files to stored JPEGs."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from tests.data.pictures import encode
from workers.data import images
from workers.data.images import BadImage, to_square, to_stored_jpeg

SIZE = 32


def picture(height: int = SIZE, width: int = SIZE) -> Image.Image:
    """A smooth picture with a different gradient in each channel."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), 255 - 255 * x / max(width - 1, 1)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_fitting_jpeg_is_stored_byte_for_byte(mode: str, progressive: bool) -> None:
    data = encode(picture().convert(mode), quality=71, progressive=progressive)
    stored = to_stored_jpeg(data, SIZE)
    assert stored.jpeg == data
    assert stored.pixels.shape == (SIZE, SIZE, 3)
    assert np.array_equal(stored.pixels, simplejpeg.decode_jpeg(data, "RGB"))


@pytest.mark.parametrize(
    "data",
    [
        *(encode(picture(*size)) for size in ((48, 64), (20, 30), (33, 32), (1, 1), (400, 300))),
        encode(picture(), "PNG"),
        encode(picture().convert("CMYK")),
    ],
)
def test_anything_else_becomes_a_full_colour_jpeg_of_the_size(data: bytes) -> None:
    stored = to_stored_jpeg(data, SIZE)
    assert stored.jpeg != data
    assert simplejpeg.decode_jpeg_header(stored.jpeg) == (SIZE, SIZE, "YCbCr", "444")
    # The statistics must be those of what the data workers will see.
    assert np.array_equal(stored.pixels, simplejpeg.decode_jpeg(stored.jpeg, "RGB"))


def area_average(pixels: np.ndarray, size: int) -> np.ndarray:
    """The central square shrunk to `size`, the long way: each pixel becomes size x size equal ones, then whole blocks average.
    The difference of the sides must be even."""
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side].astype(float)
    fine = square.repeat(size, axis=0).repeat(size, axis=1)
    return fine.reshape(size, side, size, side, 3).mean(axis=(1, 3))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (33, 33), (47, 33), (40, 66), (151, 49)])
def test_shorter_side_is_scaled_and_the_centre_is_kept(height: int, width: int) -> None:
    """The paper's recipe. Noise, so that a weight that is slightly wrong shows anywhere."""
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = to_square(encode(Image.fromarray(pixels), "PNG"), SIZE)
    assert np.abs(found - area_average(pixels, SIZE)).max() <= 0.5 + 1e-3


def test_the_middle_may_fall_between_two_pixels() -> None:
    ramp = np.broadcast_to(np.arange(65, dtype=np.uint8)[None, :, None] * 3, (64, 65, 3))
    found = to_square(encode(Image.fromarray(np.ascontiguousarray(ramp)), "PNG"), SIZE)
    # Column 0 covers the source from 0.5 to 2.5: half of pixel 0, pixel 1, half of pixel 2.
    assert found[0, :3, 0].tolist() == [3, 9, 15]
    tall = to_square(encode(Image.fromarray(np.ascontiguousarray(ramp.transpose(1, 0, 2))), "PNG"), SIZE)
    assert np.array_equal(tall, found.transpose(1, 0, 2))


@pytest.mark.parametrize(("height", "width"), [(20, 30), (31, 400), (7, 7), (400, 31)])
def test_enlarging_is_pillow_s_cubic_interpolation(height: int, width: int) -> None:
    image = picture(height, width)
    side, left, top = min(height, width), (width - min(height, width)) / 2, (height - min(height, width)) / 2
    box = (left, top, left + side, top + side)
    expected = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box))
    assert np.array_equal(to_square(encode(image, "PNG"), SIZE), expected)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    stored = to_stored_jpeg(encode(Image.fromarray(values), "PNG"), SIZE)
    assert np.abs(stored.pixels[:, :, 0].astype(int) - (values >> 8)).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_ignored_and_applied_on_request(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), kind, exif=exif)
    assert np.array_equal(to_square(data, SIZE), to_square(encode(picture(), kind), SIZE))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert np.array_equal(to_square(data, SIZE, apply_orientation=True), expected)
    stored = to_stored_jpeg(data, SIZE, apply_orientation=True)
    assert np.abs(stored.pixels.astype(int) - expected).max() <= 12
    # What is stored must not be turned again by whoever reads it with its EXIF data.
    assert Image.open(io.BytesIO(stored.jpeg)).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("value", [0, 9, 65535, b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"Exif\x00\x00nonsense"])
def test_senseless_orientation_changes_nothing(value: int | bytes) -> None:
    exif = Image.Exif()
    if not isinstance(value, bytes):
        exif[0x0112] = value
    data = encode(picture(), exif=value if isinstance(value, bytes) else exif)
    assert np.array_equal(to_square(data, SIZE, apply_orientation=True), to_square(encode(picture()), SIZE))


FITTING = encode(picture(), quality=90)
LARGER = encode(picture(90, 80), quality=90)


def test_every_cut_of_a_fitting_jpeg_is_found() -> None:
    """The last two bytes are the end mark; without it the file is not whole either."""
    for length in range(len(FITTING)):
        with pytest.raises(BadImage):
            to_stored_jpeg(FITTING[:length], SIZE)


@pytest.mark.parametrize("ending", [b"", b"\xff\xd9"])
def test_truncated_jpeg_has_a_short_reason(ending: bytes) -> None:
    for kept in (0.3, 0.9):
        with pytest.raises(BadImage, match=r"damaged JPEG|cannot be decoded") as caught:
            to_stored_jpeg(LARGER[: int(len(LARGER) * kept)] + ending, SIZE)
        assert 10 < len(caught.value.reason) < 160


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xd8\xff\xe0garbage", "cannot be decoded"),
        (encode(Image.new("F", (SIZE, SIZE)), "TIFF"), "floating-point"),
        (encode(picture(), "EPS"), "no known picture format"),  # one that starts other programs
    ],
)
def test_useless_files_have_a_short_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        to_stored_jpeg(data, SIZE)


def test_damage_behind_a_harmless_oddity_is_found() -> None:
    """libjpeg names the first thing that is odd, and Pillow takes a half-grey picture without a word."""
    odd = LARGER.replace(b"JFIF\x00\x01", b"JFIF\x00\x07", 1)
    to_square(odd, SIZE)
    cut = odd[: len(odd) * 3 // 4] + b"\xff\xd9"
    Image.open(io.BytesIO(cut)).convert("RGB")
    with pytest.raises(BadImage, match=r"damaged JPEG: .*premature end"):
        to_square(cut, SIZE)


def test_metadata_that_outweigh_the_picture_are_not_stored() -> None:
    comment = b"\xff\xfe\xff\xfe" + bytes(65532)
    data = FITTING[:2] + comment + FITTING[2:]
    stored = to_stored_jpeg(data, SIZE)
    assert len(stored.jpeg) < 5000
    assert np.abs(stored.pixels.astype(int) - simplejpeg.decode_jpeg(FITTING)).max() <= 12
    trailing = FITTING + b"nothing of use" * 10000
    assert len(to_stored_jpeg(trailing, SIZE).jpeg) < 5000
    assert to_stored_jpeg(FITTING + b"a little", SIZE).jpeg == FITTING + b"a little"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_what_would_take_too_much_memory_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind not in Image.registered_extensions().values():
        pytest.skip(f"this Pillow was built without {kind}")
    data = encode(picture(60, 60), kind)
    to_square(data, SIZE)
    if kind in ("WEBP", "AVIF"):  # which are decoded as a whole
        monkeypatch.setattr(images, "MOST_COPIED_PIXELS", 60 * 60 - 1)
        with pytest.raises(BadImage, match=f"60x60 pixels of {kind} take too much memory"):
            to_square(data, SIZE)
    for most in (60 * 60 - 1, 60 * 60 // 3):  # Pillow itself raises from twice its limit on
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(BadImage, match="decompression bombs"):
            to_square(data, SIZE)
