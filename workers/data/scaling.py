"""The central square of a picture at the size that is stored [P 2]: shrunk by averaging areas, or enlarged.

Averaging is exact: a stored pixel is the mean of the square of source pixels that it covers, those at its border by the
part that is covered (what OpenCV calls INTER_AREA and the authors' later tools used). Pillow's BOX takes or leaves border pixels
whole; where a side shrinks by less than half, as for most of ImageNet, that copies single pixels and leaves jagged edges.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

BLOCK_ROWS = 64  # of the source, averaged at a time
CUBIC_REACH = 3  # source pixels beyond the square that cubic interpolation may look at, and one to spare


def central_square(pixels: U8, size: int) -> U8:
    """[size, size, 3] from [height, width, 3]; where the middle falls between two pixels, the upper or left one counts if
    nothing is scaled. Takes memory for a few rows and columns of the source, not for a copy of it."""
    height, width, _ = pixels.shape
    shorter = min(height, width)
    if shorter == size:
        top, left = (height - size) // 2, (width - size) // 2
        return np.ascontiguousarray(pixels[top : top + size, left : left + size])
    top, left = (height - shorter) / 2, (width - shorter) / 2
    return (_shrink if shorter > size else _enlarge)(pixels, top, left, shorter, size)


def _shrink(pixels: U8, top: float, left: float, side: int, size: int) -> U8:
    rows, row_weights = _covered(top, side, size)
    columns, column_weights = _covered(left, side, size)
    first, last = columns.min(), columns.max()
    strip = pixels[:, first : last + 1]
    averaged_rows = _weighted(strip, rows, row_weights)
    # Columns are averaged as rows of the transposed picture: NumPy gathers long rows faster than single pixels.
    averaged = _weighted(averaged_rows.transpose(1, 0, 2), columns - first, column_weights).transpose(1, 0, 2)
    return np.ascontiguousarray((averaged + np.float32(0.5)).astype(np.uint8))


@functools.lru_cache(maxsize=64)  # photos come in few sizes
def _covered(start: float, side: int, size: int) -> tuple[NDArray[np.int64], F32]:
    """Of each of `size` equal parts of the stretch from `start`, `side` long: the source pixels that it touches, [size, most],
    and the shares of their weights, [size, most], which add up to 1."""
    edges = start + side * np.arange(size + 1) / size
    first = np.floor(edges[:-1]).astype(np.int64)
    most = math.ceil(side / size) + 1
    touched = first[:, None] + np.arange(most)
    inside = np.minimum(touched + 1, edges[1:, None]) - np.maximum(touched, edges[:-1, None])
    weights = np.maximum(inside, 0.0)
    # What is touched with weight 0 may lie beyond the picture's end.
    touched = np.minimum(touched, math.ceil(start + side) - 1)
    return touched, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _weighted(pixels: NDArray[np.generic], touched: NDArray[np.int64], weights: F32) -> F32:
    """[size, width, 3] from [height, width, 3]: sums of weighted rows, always in the same order of summation."""
    _, width, colours = pixels.shape
    total = np.empty((len(touched), width * colours), np.float32)
    # In one type throughout, and in memory that stays in the cache: NumPy is many times faster so.
    step = max(1, BLOCK_ROWS * len(touched) // len(pixels))
    for start in range(0, len(touched), step):
        sums, numbers, shares = (
            total[start : start + step],
            touched[start : start + step],
            weights[start : start + step],
        )
        first = numbers.min()
        rows = np.ascontiguousarray(pixels[first : numbers.max() + 1], np.float32).reshape(-1, width * colours)
        part = np.empty_like(sums)
        for index in range(touched.shape[1]):
            into = part if index else sums
            np.take(rows, numbers[:, index] - first, axis=0, out=into, mode="clip")  # other modes copy once more
            into *= shares[:, index, None]
            if index:
                sums += part
    return total.reshape(len(touched), width, colours)


def _enlarge(pixels: U8, top: float, left: float, side: int, size: int) -> U8:
    height, width, _ = pixels.shape
    y, x = max(0, math.floor(top) - CUBIC_REACH), max(0, math.floor(left) - CUBIC_REACH)
    near = pixels[
        y : min(height, math.ceil(top + side) + CUBIC_REACH), x : min(width, math.ceil(left + side) + CUBIC_REACH)
    ]
    box = (left - x, top - y, left - x + side, top - y + side)
    image = Image.fromarray(np.ascontiguousarray(near))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
