"""From picture files to stored JPEGs."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from workers.data.images import BadImage, to_stored_jpeg

SIZE = 32


def picture(height: int = SIZE, width: int = SIZE) -> Image.Image:
    """A smooth picture with a different gradient in each channel."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), 255 - 255 * x / max(width - 1, 1)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """The picture as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


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
        encode(picture(48, 64)),
        encode(picture(20, 30)),
        encode(picture(33, 32)),
        encode(picture(400, 300), quality=95),
        encode(picture().convert("CMYK")),
        encode(picture(40, 40), "PNG"),
        encode(picture(40, 40).convert("RGBA"), "PNG"),
        encode(picture(40, 40).convert("P"), "GIF"),
        encode(picture(40, 40), "WEBP", quality=100),
        encode(picture(40, 40), "TIFF"),
        encode(picture(40, 40), "BMP"),
        encode(picture(40, 40), "PPM"),
        encode(picture(1, 1)),
    ],
)
def test_anything_else_becomes_a_full_colour_jpeg_of_the_size(data: bytes) -> None:
    stored = to_stored_jpeg(data, SIZE)
    assert stored.jpeg != data
    height, width, colours, sampling = simplejpeg.decode_jpeg_header(stored.jpeg)
    assert (height, width, colours, sampling) == (SIZE, SIZE, "YCbCr", "444")
    # The statistics must be those of what the data workers will see.
    assert np.array_equal(stored.pixels, simplejpeg.decode_jpeg(stored.jpeg, "RGB"))


def reference(image: Image.Image) -> np.ndarray:
    """The paper's recipe written the long way: rescale the shorter side to SIZE, then cut the central square."""
    width, height = image.size
    scale = SIZE / min(width, height)
    resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BOX)
    left, top = (resized.width - SIZE) // 2, (resized.height - SIZE) // 2
    return np.asarray(resized.crop((left, top, left + SIZE, top + SIZE))).astype(int)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (64, 64), (512, 640)])
def test_shorter_side_is_scaled_and_the_centre_is_kept(height: int, width: int) -> None:
    image = picture(height, width)
    stored = to_stored_jpeg(encode(image, quality=100, subsampling=0), SIZE, quality=100)
    # Gradients move by 255 / SIZE = 8 levels per stored pixel: a cut that is one pixel off would show.
    assert np.abs(stored.pixels.astype(int) - reference(image)).max() <= 4


def test_shrinking_averages_areas() -> None:
    """Single-pixel stripes become even grey; nearest-neighbour or sparse cubic sampling would leave stripes."""
    stripes = np.zeros((4 * SIZE, 4 * SIZE, 3), np.uint8)
    stripes[:, ::2] = 255
    stored = to_stored_jpeg(encode(Image.fromarray(stripes), "PNG"), SIZE)
    assert np.abs(stored.pixels.astype(int) - 127).max() <= 2


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    stored = to_stored_jpeg(encode(Image.fromarray(values), "PNG"), SIZE)
    assert np.abs(stored.pixels[:, :, 0].astype(int) - (values >> 8)).max() <= 4


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    plain, turned = encode(picture(48, 64)), encode(picture(48, 64), exif=exif)
    assert np.array_equal(to_stored_jpeg(plain, SIZE).pixels, to_stored_jpeg(turned, SIZE).pixels)


FITTING = encode(picture(), quality=90)
LARGER = encode(picture(90, 80), quality=90)


@pytest.mark.parametrize("whole", [FITTING, LARGER])
@pytest.mark.parametrize("ending", [b"", b"\xff\xd9"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_jpeg_is_found(whole: bytes, ending: bytes, kept: float) -> None:
    to_stored_jpeg(whole, SIZE)
    data = whole[: int(len(whole) * kept)] + ending
    with pytest.raises(BadImage, match=r"damaged JPEG|cannot be decoded") as caught:
        to_stored_jpeg(data, SIZE)
    assert 10 < len(caught.value.reason) < 160


def test_every_cut_of_a_fitting_jpeg_is_found() -> None:
    """The last two bytes are the end mark; without it the file is not whole either."""
    for length in range(len(FITTING)):
        with pytest.raises(BadImage):
            to_stored_jpeg(FITTING[:length], SIZE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"garbage" * 100, "no known picture format"),
        (b"\xff\xd8\xff\xe0garbage", "cannot be decoded"),
        (encode(picture(90, 90), "PNG")[:200], "cannot be decoded"),
        (Image.new("F", (SIZE, SIZE)), "floating-point"),
    ],
)
def test_useless_files_have_a_short_reason(data: bytes | Image.Image, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        to_stored_jpeg(data if isinstance(data, bytes) else encode(data, "TIFF"), SIZE)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-2] + b"trailing" + data[-2:],
        lambda data: data.replace(b"JFIF\x00\x01", b"JFIF\x00\x07", 1),
    ],
)
def test_harmless_oddities_are_kept_but_encoded_anew(damage: Callable[[bytes], bytes]) -> None:
    data = damage(FITTING)
    with pytest.raises(ValueError, match=r"extraneous|revision"):
        simplejpeg.decode_jpeg(data)  # what a data worker would meet
    stored = to_stored_jpeg(data, SIZE)
    simplejpeg.decode_jpeg(stored.jpeg)
    assert np.abs(stored.pixels.astype(int) - simplejpeg.decode_jpeg(FITTING)).max() <= 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_decompression_bombs_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(picture(60, 60), kind)
    to_stored_jpeg(data, SIZE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 60 - 1)
    with pytest.raises(BadImage, match="decompression bombs"):
        to_stored_jpeg(data, SIZE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 60 // 3)  # Pillow itself raises from twice its limit on
    with pytest.raises(BadImage, match="decompression bombs"):
        to_stored_jpeg(data, SIZE)
