"""From any picture file to the square that a shard stores: size x size RGB, as checked pixels or as a JPEG that decodes."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from workers.data.scaling import central_square

JPEG_SIGNATURE = b"\xff\xd8"
# Formats that people's photos come in. Pillow knows many more, some of which start other programs (EPS).
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM")
# What libjpeg says where coded pixels are lost. Pillow would take such a file, with grey or shifted blocks in it. Of anything
# else that libjpeg finds odd (an unknown JFIF revision, a few bytes too many before a marker), no pixel suffers.
DAMAGE = ("premature end", "bad huffman code", "bad arithmetic code", "instead of rst")
# Pillow decodes these into three copies of the whole picture: with more pixels a worker would take more than 1 GiB.
COPIED_FORMATS = ("WEBP", "AVIF")
MOST_COPIED_PIXELS = 50_000_000
STRIP_ROWS = 512
TURNED = 0x0112  # EXIF tag: how the camera was held, 1 (upright) .. 8


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


def to_stored_jpeg(data: bytes, size: int, quality: int = 95, *, apply_orientation: bool = False) -> StoredImage:
    """Turn a picture file into a size x size JPEG.

    A sound JPEG that has this size already, in colour or grey, is kept byte for byte, unless it must be turned or is mostly
    something other than the picture. Anything else goes through `to_square` and is encoded at `quality` (1..100) with full
    colour resolution. Raises BadImage as `to_square` does.
    """
    pixels, plain = _decode(data, apply_orientation)
    if plain and pixels.shape[:2] == (size, size) and len(data) <= _most_bytes(size):
        return StoredImage(jpeg=data, pixels=pixels)
    jpeg = simplejpeg.encode_jpeg(central_square(pixels, size), quality, "RGB", "444")
    return StoredImage(jpeg=jpeg, pixels=simplejpeg.decode_jpeg(jpeg, "RGB"))


def to_square(data: bytes, size: int, *, apply_orientation: bool = False) -> NDArray[np.uint8]:
    """Turn a picture file into pixels, [size, size, 3] RGB.

    It is scaled so that its shorter side is `size` (shrunk by area averaging, enlarged by cubic interpolation) and cut to the
    central square [P 2]. Pixels are those of Pillow's `convert("RGB")`: of transparent ones the colour counts that lies beneath,
    of 16 bits (where Pillow would clip grey to white) the upper eight, of an animation the first frame. EXIF orientation is
    ignored, as it was by the authors' tools, unless `apply_orientation` is set.

    Raises BadImage if the file is empty, truncated, damaged, no picture, or larger than Pillow's safety limit.
    """
    return central_square(_decode(data, apply_orientation)[0], size)


def _most_bytes(size: int) -> int:
    """Of a JPEG that is stored as it is: metadata or trailing bytes that outweigh the pixels would be read at each use."""
    return max(3 * size * size, 2**16)


def _decode(data: bytes, apply_orientation: bool) -> tuple[NDArray[np.uint8], bool]:
    """Pixels [height, width, 3], and whether a data worker can decode the file as it is."""
    if not data:
        raise BadImage("the file is empty")
    pixels, plain = _decode_jpeg(data) if data.startswith(JPEG_SIGNATURE) else (_decode_with_pillow(data), False)
    turned = _orientation(data) if apply_orientation else 1
    return (pixels, plain) if turned == 1 else (_upright(pixels, turned), False)


def _decode_jpeg(data: bytes) -> tuple[NDArray[np.uint8], bool]:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_area(height, width)
        # Data workers decode strictly too, so a file that libjpeg finds anything odd about is not stored as it is.
        pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except KeyError:  # colours or sampling that simplejpeg has no name for
        return _decode_with_pillow(data), False
    except ValueError as error:
        _refuse_damage(_first_line(error))
        _refuse_damage(_oddity_of_the_scan(data))
        return _decode_with_pillow(data), False
    if colours in ("CMYK", "YCCK"):
        del pixels  # of a large picture, two copies would be too much
        return _decode_with_pillow(data), False  # simplejpeg rounds these down, by one level on average
    return pixels, True


def _refuse_damage(oddity: str) -> None:
    if any(sign in oddity.lower() for sign in DAMAGE):
        raise BadImage(f"damaged JPEG: {oddity}")


def _oddity_of_the_scan(data: bytes) -> str:
    """What libjpeg says of a JPEG apart from its application segments. It stops at the first oddity, and behind a harmless one
    in those (Exif, JFIF, ICC ...) there may be damage."""
    position, core = 2, [data[:2]]
    while data[position : position + 1] == b"\xff" and len(data) > position + 4:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if not 0xE0 <= marker <= 0xEF:
            core.append(data[position : position + 2 + length])
        position += 2 + length
        if marker == 0xDA:  # from here on come coded pixels
            break
    try:
        simplejpeg.decode_jpeg(b"".join([*core, data[position:]]), "RGB", strict=True)
    except (ValueError, KeyError) as error:
        return _first_line(error)
    return ""


def _decode_with_pillow(data: bytes) -> NDArray[np.uint8]:
    """Pixels [height, width, 3] of any of the FORMATS."""
    try:
        with warnings.catch_warnings():
            # Pillow's other warnings (odd EXIF, odd palettes) concern nothing that is used here.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _opened(data) as image:
                _check_area(image.height, image.width)
                if image.format in COPIED_FORMATS and image.height * image.width > MOST_COPIED_PIXELS:
                    raise BadImage(f"{image.width}x{image.height} pixels of {image.format} take too much memory")
                image.load()
                pixels = np.empty((image.height, image.width, 3), np.uint8)
                # Pillow takes four bytes for a pixel: a second copy of the largest pictures would be too much.
                for top in range(0, image.height, STRIP_ROWS):
                    bottom = min(top + STRIP_ROWS, image.height)
                    pixels[top:bottom] = _to_rgb(image.crop((0, top, image.width, bottom)))
                return pixels
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImage("larger than Pillow's limit against decompression bombs") from None
    except Image.UnidentifiedImageError:
        kind = "damaged JPEG: no readable header" if data.startswith(JPEG_SIGNATURE) else "no known picture format"
        raise BadImage(kind) from None
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # of almost any kind: struct.error, SyntaxError, EOFError, by the damage
        raise BadImage(f"cannot be decoded: {_first_line(error)}") from None


def _opened(data: bytes) -> Image.Image:
    Image.init()
    # A Pillow may have been built without one or the other.
    return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise BadImage("floating-point pixels have no defined range")
    # Pillow would clip 16-bit grey to white.
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        return np.repeat((values.clip(0, 65535) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _orientation(data: bytes) -> int:
    """1..8 as EXIF defines them; 1, which changes nothing, where it is missing or makes no sense."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _opened(data) as image:
                value = image.getexif().get(TURNED, 1)
    except Exception:  # as above: broken metadata may raise anything, and the pixels are known to be sound
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: NDArray[np.uint8], turned: int) -> NDArray[np.uint8]:
    """The picture as it was seen, from what the camera wrote [EXIF 2.3, 4.6.4, tag Orientation]."""
    if turned >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if turned in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turned in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _check_area(height: int, width: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > limit:
        raise BadImage(f"{width}x{height} pixels are more than Pillow's limit against decompression bombs")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
