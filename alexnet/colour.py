"""Principal components of a training set's colours, and the basis of the colour noise [P 4.1]. Needs no torch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from configs.schema import ColourNoise

# Principal components of ImageNet's RGB values (0..255) as the authors published them with cuda-convnet2
# (make-data/input_meta): standard deviations, and eigenvectors as columns in the same order.
AUTHORS_DEVIATIONS = (19.720833, 37.093889, 121.780061)
AUTHORS_EIGENVECTORS = (
    (0.417955, -0.712579, -0.563510),
    (-0.816981, -0.023542, -0.576184),
    (0.397311, 0.701196, -0.592003),
)


@dataclass(frozen=True, kw_only=True)
class PixelStatistics:
    """Of a training set, in units of 0..255."""

    mean_SSC: npt.NDArray[np.float32]
    """The mean image."""
    eigenvalues: tuple[float, ...]
    """Of the RGB covariance: variances."""
    eigenvectors: tuple[tuple[float, ...], ...]
    """3x3; columns, in the eigenvalues' order."""


def colour_basis(noise: ColourNoise, statistics: PixelStatistics) -> npt.NDArray[np.float64]:
    """3x3 matrix that turns three standard normal numbers into an RGB offset in units of 0..255, rescaling left out.

    The authors' code multiplies components by strength times standard deviation (convdata_jpeg.py). The paper's text says
    eigenvalues [P 4.1], taken for pixels from 0 to 1: 255 * (eigenvalue / 255**2).
    """
    if noise.statistics == "authors":
        deviations, vectors = np.array(AUTHORS_DEVIATIONS), np.array(AUTHORS_EIGENVECTORS)
    else:
        deviations = np.sqrt(np.maximum(np.array(statistics.eigenvalues), 0.0))
        vectors = np.array(statistics.eigenvectors)
    lengths = deviations if noise.scale == "standard_deviation" else deviations**2 / 255.0
    basis: npt.NDArray[np.float64] = vectors * (noise.strength * lengths)[None, :]
    return basis
