"""From any picture file to the JPEG that a shard stores: size x size RGB, checked by decoding it."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

JPEG_SIGNATURE = b"\xff\xd8"
# Every pixel is there, then a few bytes too many. Some cameras and web servers write such files.
HARMLESS_WARNING = "extraneous bytes before marker 0xd9"


class BadImage(Exception):  # noqa: N818 - reads as what it is: an image to set aside, not a failure
    """An image that cannot be used; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """A JPEG as a shard stores it, and what it decodes to."""

    jpeg: bytes
    pixels: NDArray[np.uint8]
    """[size, size, 3] RGB: exactly what a data worker will decode."""


def to_stored_jpeg(data: bytes, size: int, quality: int = 95) -> StoredImage:
    """Turn a picture file into a size x size JPEG.

    A JPEG that has this size already, in colour or grey, is kept byte for byte. Anything else is scaled so that its
    shorter side is `size` (shrunk by area averaging, enlarged by cubic interpolation), cut to the central square
    [P 2] and encoded at `quality` (1..100) with full colour resolution. EXIF orientation is ignored, as it was by the
    authors' tools. The first frame of an animation counts.

    Raises BadImage if the file is empty, truncated, damaged, no picture, or larger than Pillow's safety limit.
    """
    if not data:
        raise BadImage("the file is empty")
    if data.startswith(JPEG_SIGNATURE):
        pixels, keep = _decode_jpeg(data, size)
        if keep:
            return StoredImage(jpeg=data, pixels=pixels)
    else:
        pixels = _decode_with_pillow(data)
    jpeg = simplejpeg.encode_jpeg(_central_square(pixels, size), quality, "RGB", "444")
    return StoredImage(jpeg=jpeg, pixels=simplejpeg.decode_jpeg(jpeg, "RGB"))


def _decode_jpeg(data: bytes, size: int) -> tuple[NDArray[np.uint8], bool]:
    """Pixels [height, width, 3], and whether the file can be stored as it is."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # KeyError: colours that simplejpeg has no name for
        # A JPEG that libjpeg-turbo's simple interface does not know (odd sampling, odd header), or a stump of one.
        return _decode_with_pillow(data), False
    _check_area(height, width)
    fits = (height, width) == (size, size) and colours in ("YCbCr", "RGB", "Gray")
    # Large photographs are decoded at a half, quarter ... of their size, still at least twice as large as needed:
    # libjpeg averages areas while decoding, for a fraction of the time and memory.
    scaling = {} if fits else {"min_height": 2 * size, "min_width": 2 * size, "min_factor": 2}
    try:
        return simplejpeg.decode_jpeg(data, "RGB", strict=True, **scaling), fits
    except ValueError as error:
        if HARMLESS_WARNING in str(error):
            # Data workers decode strictly, so such a file is not stored as it is.
            return _decode_with_pillow(data), False
        raise BadImage(f"damaged JPEG: {_first_line(error)}") from None


def _decode_with_pillow(data: bytes) -> NDArray[np.uint8]:
    """Pixels [height, width, 3] of any format that Pillow reads."""
    try:
        with warnings.catch_warnings():
            # Pillow's other warnings (odd EXIF, odd palettes) concern nothing that is used here.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                _check_area(image.height, image.width)
                image.load()
                return np.asarray(_to_rgb(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImage("larger than Pillow's limit against decompression bombs") from None
    except Image.UnidentifiedImageError:
        kind = "damaged JPEG: no readable header" if data.startswith(JPEG_SIGNATURE) else "no known picture format"
        raise BadImage(kind) from None
    except BadImage:
        raise
    # Pillow's decoders meet damaged input with almost any exception (struct.error, SyntaxError, EOFError ...).
    except Exception as error:
        raise BadImage(f"cannot be decoded: {_first_line(error)}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImage("floating-point pixels have no defined range")
    # Pillow would clip 16-bit grey to white.
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _check_area(height: int, width: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > limit:
        raise BadImage(f"{width}x{height} pixels are more than Pillow's limit against decompression bombs")


def _central_square(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """[size, size, 3] from [height, width, 3]."""
    height, width, _ = pixels.shape
    shorter = min(height, width)
    if shorter != size:
        # Cut first, in source pixels: scaling what is thrown away would be wasted.
        left, top = (width - shorter) / 2, (height - shorter) / 2
        method = Image.Resampling.BOX if shorter > size else Image.Resampling.BICUBIC
        box = (left, top, left + shorter, top + shorter)
        return np.asarray(Image.fromarray(pixels).resize((size, size), method, box=box))
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
