"""What is drawn for each image of a training batch: crop, mirror, colour offset and the key of its dropout masks.

Pure functions of (seed, epoch, position); `crop_shared_by` consecutive positions share crop and mirror, as 32 did in the
authors' code (convdata_jpeg.py, crop_chunk).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alexnet.counter import integers, keys, normals, uniforms
from configs.schema import Augment
from workers.data.order import COLOUR, CROP_X, CROP_Y, DROPOUT, I64, MIRROR


@dataclass(frozen=True, kw_only=True)
class Draws:
    """For B images."""

    offsets: I64
    """[B, 2] (y, x) of the crop in the stored image."""
    mirror: npt.NDArray[np.bool_]
    """[B]"""
    colour: npt.NDArray[np.float32] | None
    """[B, 3] offset in units of 0..255; None without colour noise."""
    noisy: npt.NDArray[np.bool_] | None
    """[B] images of the epochs that have colour noise."""
    keys: I64
    """[B] of the dropout masks."""


def crop_positions(settings: Augment, image_size: int, crop: int) -> int:
    """Crop offsets per axis. Raises ValueError if they do not fit."""
    fitting = image_size - crop + 1
    if settings.crop == "centre" and fitting >= 1:
        return 1
    positions = fitting if settings.crop_positions is None else settings.crop_positions
    if fitting < 1:
        raise ValueError(
            f"the stored images are {image_size}x{image_size}, smaller than the crop of {crop} "
            "(network.input_size); prepare the data set with a larger --size, or use a smaller crop"
        )
    if positions > fitting:
        raise ValueError(
            f"augment.crop_positions = {positions}, but a crop of {crop} has {fitting} in an image of {image_size}; "
            "lower it, or leave it null for all that fit"
        )
    return positions


def first_offset(settings: Augment, image_size: int, crop: int) -> int:
    """The smallest crop offset per axis, in pixels: the centre's, where all crops are cut there, as in testing."""
    return (image_size - crop) // 2 if settings.crop == "centre" else 0


def draw(
    settings: Augment,
    *,
    seed: int,
    epochs: I64,
    positions: I64,
    offsets_per_axis: int,
    first: int = 0,
    colour_basis: npt.NDArray[np.float64] | None,
) -> Draws:
    """Draws for the images at these epochs and positions.

    offsets_per_axis: see `crop_positions`. first: see `first_offset`. colour_basis: 3x3, from standard normal numbers to an RGB
    offset.
    """
    shared = positions // settings.crop_shared_by
    offsets = np.stack(
        [first + integers(keys(seed, axis, epochs, shared), offsets_per_axis) for axis in (CROP_Y, CROP_X)], axis=1
    )
    mirror = uniforms(keys(seed, MIRROR, epochs, shared)) < 0.5 if settings.mirror else np.zeros(len(shared), bool)
    colour, noisy = None, None
    if settings.colour_noise is not None and colour_basis is not None:
        until = settings.colour_noise.until_epoch
        noisy = epochs < until if until is not None else np.ones(len(epochs), bool)
        components = normals(keys(seed, COLOUR, epochs[:, None], positions[:, None], np.arange(3)))
        colour = (components @ colour_basis.T * noisy[:, None]).astype(np.float32)
    return Draws(
        offsets=offsets,
        mirror=mirror,
        colour=colour,
        noisy=noisy,
        keys=keys(seed, DROPOUT, epochs, positions).view(np.int64),
    )
