"""A prepared data set behind torch's Dataset and DataLoader: Pillow decodes, torch crops, mirrors and adds colour noise.

It shares the format of the files with `workers.data`, and no code: a manifest in JSON and Arrow files of JPEGs (or pixels).
Shapes: H, W positions of the crop, S side of a stored image, C colours.
"""

import io
import itertools
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alexnet.colour import AUTHORS_DEVIATIONS, AUTHORS_EIGENVECTORS
from configs.schema import Augment, Config


class Photos(Dataset[tuple[Tensor, int]]):
    """Whole images uint8 [S, S, C] and labels of one split, as they are stored."""

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        shards = self.manifest["splits"][split]["shards"]
        tables = [self._table(shard["file"]) for shard in shards]
        self.images = [table.column("image") for table in tables]
        self.labels = np.concatenate([table.column("label").to_numpy() for table in tables])
        self.first_rows = [0, *itertools.accumulate(len(table) for table in tables)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.whole(index), int(self.labels[index])

    def whole(self, index: int) -> Tensor:
        shard = int(np.searchsorted(self.first_rows, index, side="right")) - 1
        stored: bytes = self.images[shard][index - self.first_rows[shard]].as_py()
        size = self.manifest["image_size"]
        if self.manifest["encoding"] == "raw":
            return torch.from_numpy(np.frombuffer(stored, np.uint8).reshape(size, size, 3).copy())
        with Image.open(io.BytesIO(stored)) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))

    def _table(self, file: str) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self.folder / file))).read_all()  # mapped, not read


class TrainingCrops(Photos):
    """Random crops, mirror images and colour noise: float [C, H, W] and labels. All chance is torch's own.

    Set `epoch` before each pass: colour noise may end at one.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config.data.path, "train")
        self.settings, self.crop, self.epoch = config.augment, config.network.input_size, 0
        self.mean_SSC = mean_image(self.folder, self.manifest, config.augment)
        self.basis_CC = noise_basis(self.manifest, config.augment)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, settings, noise = self.whole(index), self.settings, self.settings.colour_noise
        fitting = image.shape[0] - self.crop + 1
        y, x = [(fitting - 1) // 2] * 2
        if settings.crop == "random":
            y, x = torch.randint(settings.crop_positions or fitting, (2,)).tolist()
        pixels_HWC = image[y : y + self.crop, x : x + self.crop].float()
        if settings.mean == "position":
            pixels_HWC -= self.mean_SSC[y : y + self.crop, x : x + self.crop]
        if settings.mirror and torch.rand(()) < 0.5:
            pixels_HWC = pixels_HWC.flip(1)
        if settings.mean != "position":
            pixels_HWC -= centre(self.mean_SSC, self.crop)
        if (
            noise is not None
            and self.basis_CC is not None
            and (noise.until_epoch is None or self.epoch < noise.until_epoch)
        ):
            pixels_HWC += self.basis_CC @ torch.randn(3)
            pixels_HWC /= 1 + noise.strength if noise.rescale else 1.0
        return pixels_HWC.permute(2, 0, 1) * settings.pixel_scale, int(self.labels[index])


def mean_image(folder: Path, manifest: dict[str, Any], settings: Augment) -> Tensor:
    """Of the training set, float [S, S, C]."""
    mean = torch.from_numpy(np.load(folder / manifest["pixel_mean_file"]))
    return mean if settings.mean != "channel" else mean.mean(dim=(0, 1), keepdim=True).expand_as(mean)


def noise_basis(manifest: dict[str, Any], settings: Augment) -> Tensor | None:
    """[C, C], from three standard normal numbers to an offset of the colours; None without colour noise."""
    noise = settings.colour_noise
    if noise is None:
        return None
    if noise.statistics == "authors":
        vectors, deviations = torch.tensor(AUTHORS_EIGENVECTORS), torch.tensor(AUTHORS_DEVIATIONS)
    else:
        vectors = torch.tensor(manifest["rgb_eigenvectors"])
        deviations = torch.tensor(manifest["rgb_eigenvalues"]).clamp(min=0).sqrt()
    if noise.scale == "eigenvalue":
        deviations = deviations**2 / 255
    return vectors * deviations * noise.strength


def centre(images: Tensor, crop: int) -> Tensor:
    """The middle of images [..., S, S, C]."""
    start = (images.shape[-2] - crop) // 2
    return images[..., start : start + crop, start : start + crop, :]


def views(images_BSSC: Tensor, mean_SSC: Tensor, crop: int, settings: Augment, count: int) -> list[Tensor]:
    """The centre (count 1), or corners and centre with their mirror images (count 10): float [B, C, H, W] each."""
    last, middle = images_BSSC.shape[1] - crop, (images_BSSC.shape[1] - crop) // 2
    corners = [(0, 0), (0, last), (last, 0), (last, last)] if count == 10 else []
    found = []
    for y, x in [*corners, (middle, middle)]:
        own_mean = mean_SSC[y : y + crop, x : x + crop]
        mean = own_mean if settings.mean == "position" else centre(mean_SSC, crop)
        pixels = images_BSSC[:, y : y + crop, x : x + crop].float()
        found.append(pixels - mean)
        if count == 10 and settings.mean == "position":
            found.append((pixels - mean).flip(2))
        elif count == 10:
            found.append(pixels.flip(2) - mean)
    return [view.permute(0, 3, 1, 2) * settings.pixel_scale for view in found]


def loader(photos: Photos, batch: int, workers: int, generator: torch.Generator | None = None) -> DataLoader[Any]:
    """generator: shuffles, and seeds the workers; None: in order."""
    return DataLoader(
        photos,
        batch_size=batch,
        shuffle=generator is not None,
        num_workers=workers,
        generator=generator,
        worker_init_fn=_leave_signals_to_parent,
    )


def _leave_signals_to_parent(_: int) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
