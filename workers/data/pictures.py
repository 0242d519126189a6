"""A labelled picture set that this program draws itself: five shapes, each filled with one of two textures.

Telling the ten classes apart takes edges and texture. Colour is no help, by construction: all classes draw
their colours from one distribution, all shapes have equal area and lie wholly inside the picture, and both
textures spread evenly over the same range between two colours.

A picture is drawn with +, -, *, /, sqrt and floor alone, which IEEE 754 defines to the last bit. sin and exp
differ between processors, and then the set would not be the same on every machine.
"""

import functools
import os
import shutil
import uuid
from collections.abc import Callable
from math import pi, sqrt
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

Field = NDArray[np.float32]  # one number per pixel, [size * size]

SPLITS = ("train", "validation")
JPEG_QUALITY = 92
MIN_SIZE = 16  # at this size the finest stripes come near two pixels a period, where they would alias

# In sides of the picture. Even the largest triangle, the shape that reaches farthest, stays inside.
SCALE_RANGE = (0.40, 0.46)  # square root of the shape's area
SHIFT_RANGE = (-0.08, 0.08)  # of the shape's centre, from the middle, along each axis
EDGE_WIDTH_RANGE = (0.03, 0.05)  # over which the outline blurs

# In units of `scale`, the square root of the shape's area. Checks lie on the diagonals of their two waves, so
# a longer period gives them about the side that stripes have as width.
STRIPE_PERIOD_RANGE = (0.36, 0.44)
CHECK_PERIOD_RANGE = (0.55, 0.67)

HALF_ANGLE_TANGENT = 0.16  # shapes turn by up to 18 degrees either way
TEXTURE_GAIN = 2.0  # above 1: this many times steeper than a plain triangle wave, cut off at both colours

# Colours, from 0 to 1.
LEVELS = (0.14, 0.50, 0.86)  # brightness of the background and of the two texture colours, in random order
TINT = 0.14  # how far a colour channel strays from its level
RAMP = 0.08  # how far the background may brighten from the middle to the border
NOISE = 0.05  # half the width of the even distribution that pixel noise is drawn from


def _disc(x: Field, y: Field) -> Field:
    return np.sqrt(x * x + y * y) - np.float32(1 / sqrt(pi))


def _square(x: Field, y: Field) -> Field:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.5)


def _triangle(x: Field, y: Field) -> Field:
    inner_radius = 1 / sqrt(3 * sqrt(3))
    slanted = np.abs(x) * np.float32(sqrt(3) / 2) - y * np.float32(0.5)
    return np.maximum(slanted, y) - np.float32(inner_radius)


def _star(x: Field, y: Field) -> Field:
    cos36, sin36 = (1 + sqrt(5)) / 4, sqrt((5 - sqrt(5)) / 8)
    inner_over_outer = 0.45
    outer = 1 / sqrt(5 * inner_over_outer * sin36)
    inner = inner_over_outer * outer
    # Mirror the plane into the wedge of half a point, where the outline is one straight edge.
    x, y = np.abs(x), -y
    for normal_x in (cos36, -cos36):
        beyond = np.maximum(x * np.float32(normal_x) - y * np.float32(sin36), np.float32(0)) * np.float32(2)
        x, y = x - beyond * np.float32(normal_x), y + beyond * np.float32(sin36)
    x = np.abs(x)
    edge_x, edge_y = inner * sin36, inner * cos36 - outer
    length = sqrt(edge_x * edge_x + edge_y * edge_y)
    return (y - np.float32(outer)) * np.float32(edge_x / length) - x * np.float32(edge_y / length)


def _cross(x: Field, y: Field) -> Field:
    half_length = sqrt(9 / 20)
    half_width = np.float32(half_length / 3)
    x, y = np.abs(x), np.abs(y)
    along, across = np.maximum(x, y), np.minimum(x, y)
    return np.maximum(along - np.float32(half_length), across - half_width)


# Each: pixel coordinates in units of `scale`, y down -> distance to the outline, negative inside. Area 1.
_SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}


def _triangle_wave(phase: Field) -> Field:
    """A wave of period 1 between -1 and 1 that spends equal time at every value."""
    return np.abs((phase - np.floor(phase)) * np.float32(4) - np.float32(2)) - np.float32(1)


def _stripes(u: Field, v: Field) -> Field:
    return _triangle_wave(u)


def _checks(u: Field, v: Field) -> Field:
    total = _triangle_wave(u) + _triangle_wave(v)
    # The distribution function of the sum: makes the values spread as evenly as those of stripes, or else
    # the variance of the colours would tell the two textures apart.
    return total - total * np.abs(total) * np.float32(0.25)


# Each: coordinates along two axes in periods -> values spread evenly over [-1, 1].
_TEXTURES: dict[str, tuple[Callable[[Field, Field], Field], tuple[float, float]]] = {
    "striped": (_stripes, STRIPE_PERIOD_RANGE),
    "checked": (_checks, CHECK_PERIOD_RANGE),
}

_CLASSES = tuple((shape, texture) for shape in _SHAPES for texture in _TEXTURES)
CLASS_NAMES: tuple[str, ...] = tuple(f"{texture}-{shape}" for shape, texture in _CLASSES)


@functools.lru_cache(maxsize=4)
def _pixel_grid(size: int) -> tuple[Field, Field]:
    """x and y of every pixel centre, in pixels from the middle of the picture."""
    line = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
    y, x = np.meshgrid(line, line, indexing="ij")
    return x.ravel(), y.ravel()


def _turn(x: Field, y: Field, half_angle_tangent: float) -> tuple[Field, Field]:
    """Rotate coordinates; the half-angle tangent gives sine and cosine without calling either."""
    square = half_angle_tangent * half_angle_tangent
    cosine, sine = (1 - square) / (1 + square), 2 * half_angle_tangent / (1 + square)
    return x * cosine + y * sine, y * cosine - x * sine


def draw_picture(size: int, class_index: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one picture of class CLASS_NAMES[class_index].

    size: side in pixels, at least MIN_SIZE.
    rng: the only source of chance; every class takes the same number of draws from it.

    Returns uint8 [size, size, 3], RGB. Raises ValueError for a size or a class out of range.
    """
    if size < MIN_SIZE:
        raise ValueError(f"a picture needs a side of at least {MIN_SIZE} pixels, got {size}")
    if not 0 <= class_index < len(CLASS_NAMES):
        raise ValueError(f"class_index must be in [0, {len(CLASS_NAMES)}), got {class_index}")
    shape_name, texture_name = _CLASSES[class_index]
    distance_to = _SHAPES[shape_name]
    texture, period_range = _TEXTURES[texture_name]
    # One call for all 23 numbers: a call each would cost more than the drawing.
    chances = iter(rng.random(23).tolist())

    def between(low: float, high: float) -> float:
        return low + (high - low) * next(chances)

    scale = between(*SCALE_RANGE) * size
    grid_x, grid_y = _pixel_grid(size)
    x = (grid_x - between(*SHIFT_RANGE) * size) / scale
    y = (grid_y - between(*SHIFT_RANGE) * size) / scale
    x_turned, y_turned = _turn(x, y, between(-HALF_ANGLE_TANGENT, HALF_ANGLE_TANGENT))
    distance = distance_to(x_turned, y_turned)
    edge_width = between(*EDGE_WIDTH_RANGE) * size / scale
    coverage = np.clip(0.5 - distance / edge_width, 0, 1)

    period = between(*period_range)
    u, v = _turn(x, y, between(-1, 1))
    fill = texture(u / period + between(0, 1), v / period + between(0, 1))
    fill = np.clip(fill * TEXTURE_GAIN, -1, 1)

    # The light on the background grows from one side to the other.
    across, _ = _turn(grid_x, grid_y, between(-1, 1))
    ramp = across * (between(-RAMP, RAMP) * 2 / size)

    levels = sorted(LEVELS, key=lambda _: next(chances))  # a shuffle: each level gets a random rank
    colours = [[level + between(-TINT, TINT) for _ in range(3)] for level in levels]
    background, first, second = np.array(colours, dtype=np.float32)[:, :, None]

    # Channels first while computing: numpy is slow over an inner axis of length 3.
    ground_CP = background + ramp
    shape_CP = (first + second) / 2 + fill * ((first - second) / 2)
    picture_CP = ground_CP + coverage * (shape_CP - ground_CP)
    noise_CP = rng.integers(0, 256, size=picture_CP.shape, dtype=np.uint8)
    # Noise is centred on zero; half a level is added so that the cast below rounds.
    levels_CP = picture_CP * 255 + (noise_CP * np.float32(2 * NOISE) + np.float32(0.5 - 255 * NOISE))
    pixels_CP = np.clip(levels_CP, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels_CP.T).reshape(size, size, 3)


def _picture_jpeg(size: int, *, seed: int, split: int, class_index: int, index: int) -> bytes:
    sequence = np.random.SeedSequence(seed, spawn_key=(split, class_index, index))
    rng = np.random.Generator(np.random.PCG64(sequence))
    picture = draw_picture(size, class_index, rng)
    # Full-resolution colour: halved, a texture of two hues of one brightness would wash out.
    encoded: bytes = simplejpeg.encode_jpeg(picture, quality=JPEG_QUALITY, colorsubsampling="444")
    return encoded


def draw_picture_set(
    root: Path,
    *,
    size: int,
    train_per_class: int,
    validation_per_class: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the set as JPEG files `root/{train,validation}/<class>/<index, five digits>.jpg`.

    A picture depends on (size, seed, split, class, index) alone, so a larger set begins with the smaller one.
    The set appears under `root` in one step, at the end: a folder that exists is whole.

    size: side of the pictures in pixels.
    progress: called now and then, and at the end, with (pictures written, pictures in all).

    Raises FileExistsError if `root` exists, ValueError for a setting out of range, OSError if writing fails.
    """
    if size < MIN_SIZE:
        raise ValueError(f"a picture needs a side of at least {MIN_SIZE} pixels, got {size}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    counts = (train_per_class, validation_per_class)
    if min(counts) < 1:
        raise ValueError(f"each split needs at least one picture per class, got {counts}")
    if root.exists():
        raise FileExistsError(f"{root} exists; a picture set is never written over")
    root.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, because a rename is atomic only within one file system. A fresh name, because two machines
    # may draw into one shared folder at once.
    unfinished = root.parent / f".{root.name}.{uuid.uuid4().hex}.part"
    try:
        _write_pictures(unfinished, size=size, counts=counts, seed=seed, progress=progress)
        # rename() would replace an empty folder that came up meanwhile; a full one makes it fail.
        os.rename(unfinished, root)
    except BaseException as error:  # Ctrl-C too; it is raised on
        shutil.rmtree(unfinished, ignore_errors=True)
        if isinstance(error, OSError) and root.exists():
            raise FileExistsError(f"{root} was drawn by someone else meanwhile") from error
        raise


def drawn_as(root: Path, *, size: int, train_per_class: int, validation_per_class: int, seed: int) -> bool:
    """Whether the set under `root` was drawn with these settings: as many pictures, and the first of them the same."""
    folders = [root / split / CLASS_NAMES[0] for split in SPLITS]
    if [len(list(folder.glob("*.jpg"))) for folder in folders] != [train_per_class, validation_per_class]:
        return False
    ours = _picture_jpeg(size, seed=seed, split=0, class_index=0, index=0)
    there, here = (
        simplejpeg.decode_jpeg(jpeg).astype(np.int16) for jpeg in ((folders[0] / "00000.jpg").read_bytes(), ours)
    )
    # Versions of the encoder may differ in a level or two.
    return bool(there.shape == here.shape and np.abs(there - here).mean() < 3)


def _write_pictures(
    folder: Path,
    *,
    size: int,
    counts: tuple[int, int],
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    total, done = sum(counts) * len(CLASS_NAMES), 0
    for split, (split_name, count) in enumerate(zip(SPLITS, counts, strict=True)):
        for class_index, class_name in enumerate(CLASS_NAMES):
            class_folder = folder / split_name / class_name
            class_folder.mkdir(parents=True)
            for index in range(count):
                jpeg = _picture_jpeg(size, seed=seed, split=split, class_index=class_index, index=index)
                (class_folder / f"{index:05d}.jpg").write_bytes(jpeg)
                done += 1
                if progress and (done % 100 == 0 or done == total):
                    progress(done, total)
