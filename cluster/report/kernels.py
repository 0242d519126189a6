"""Figure 3: the kernels of the first layer as a picture, column 0's above, column 1's below, and so on.

Shape suffixes: O kernels, C the three colours, K positions each way.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from configs.geometry import layers
from configs.schema import Network

if TYPE_CHECKING:
    from cluster.network import LoadedNetwork

PER_ROW = 16  # as the authors' shownet.py
SIDE = 44
"""About so many pixels a side is a kernel drawn."""
GAP = 6  # pixels between kernels
BAND = 34  # pixels above each column's kernels, for its name
TEXT = 24  # pixels, height of the letters


def first_layer(network: Network) -> str | None:
    """Name of the first layer if it is a convolution of the image with kernels to show, else None."""
    layer = layers(network)[0]
    return layer.name if layer.kind == "conv" and len(layer.weight_shape) == 4 else None


def first_kernels(loaded: "LoadedNetwork") -> NDArray[np.float32] | None:
    """Of a loaded network, [O, C, K, K]; None if its first layer has none."""
    name = first_layer(loaded.network)
    if name is None:
        return None
    part: Any = loaded.model.parts[name]
    weights: NDArray[np.float32] = part.weight.detach().float().cpu().contiguous().numpy()
    return weights


def as_colours(weights_OCKK: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Each kernel scaled to itself: its largest weight becomes 0 or 255, and a weight of zero mid-grey. uint8 [O, K, K, C]."""
    largest = np.abs(weights_OCKK).max(axis=(1, 2, 3), keepdims=True)
    scaled = weights_OCKK / np.where(largest > 0, largest, 1.0)
    pixels: NDArray[np.uint8] = np.rint(127.5 + 127.5 * scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels


class KernelSheet:
    """Where each kernel stands in the picture. kernels: of all columns together; side: of a kernel, in weights."""

    def __init__(self, kernels: int, columns: int, side: int) -> None:
        self.columns, self.own = columns, kernels // columns
        self.zoom = max(1, round(SIDE / side))
        self.step = self.zoom * side + GAP
        self.per_row = min(PER_ROW, self.own)
        rows = -(-self.own // self.per_row)
        self.block = BAND + rows * self.step + GAP
        self.width = GAP + self.per_row * self.step
        self.height = columns * self.block

    def corner(self, kernel: int) -> tuple[int, int]:
        """(y, x) of its upper left pixel."""
        column, number = divmod(kernel, self.own)
        row, place = divmod(number, self.per_row)
        return column * self.block + BAND + row * self.step, GAP + place * self.step


def draw_kernels(weights_OCKK: NDArray[np.floating], columns: int) -> NDArray[np.uint8]:
    """The picture, uint8 [height, width, 3], on white. Kernels of a column follow each other as its maps do."""
    from PIL import Image, ImageDraw, ImageFont

    sheet = KernelSheet(len(weights_OCKK), columns, weights_OCKK.shape[-1])
    canvas = np.full((sheet.height, sheet.width, 3), 255, np.uint8)
    for number, kernel in enumerate(as_colours(weights_OCKK)):
        large = kernel.repeat(sheet.zoom, axis=0).repeat(sheet.zoom, axis=1)
        y, x = sheet.corner(number)
        canvas[y : y + large.shape[0], x : x + large.shape[1]] = large
    picture = Image.fromarray(canvas)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    for column in range(columns):
        draw.text((GAP, column * sheet.block + 2), f"column {column}", fill="black", font=font)
    return np.asarray(picture)
