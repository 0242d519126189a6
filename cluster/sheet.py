"""A contact sheet: stored training images, each beside what the network sees of it in the first epochs.

Crops, mirrors and colours are those that training with this config and seed takes, drawn and applied by the same code.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.report.letters import font_of
from configs.errors import UserError
from configs.loader import load
from configs.schema import Augment

if TYPE_CHECKING:
    from PIL import ImageDraw

    from workers.data.manifest import Manifest

EPOCHS = 6
MARGIN = 8  # pixels between pictures
TEXT = 12  # pixels, height of the letters


def draw_sheet(folder: Path, manifest: "Manifest", sheet: Path, config: str, samples: int) -> list[str]:
    """Write the PNG `sheet` of the first `samples` images of the training order. Returns notes for the user.

    A crop that does not fit into the stored images becomes one of 7/8 of their side. Raises UserError.
    """
    from workers.data.dataset import Dataset
    from workers.data.order import permutation

    settings = load(config)
    if "train" not in manifest.splits or not manifest.splits["train"].rows:
        raise UserError(f"{folder} has no training images to draw a sheet of")
    crop, augment, notes = _fitting(settings.network.input_size, settings.augment, manifest.image_size)
    dataset, seed = Dataset(folder, "train", manifest), settings.train.seed
    rows = permutation(seed, 0, len(dataset))[:samples]
    stored = np.empty((len(rows), manifest.image_size, manifest.image_size, 3), np.uint8)
    for row, image in zip(rows, stored, strict=True):
        dataset.decode_into(int(row), image)
    seen = []
    for epoch in range(EPOCHS):
        places = np.empty(len(dataset), np.int64)
        same = settings.train.order == "same_every_epoch"
        places[permutation(seed, 0 if same else epoch, len(dataset))] = np.arange(len(dataset))
        seen.append(_seen(folder, manifest, augment, crop, seed, epoch, places[rows], stored))
    labels = [manifest.classes[dataset.label(int(row))] for row in rows]
    keys = [dataset.key(int(row)) for row in rows]
    title = f"{config}, seed {seed}: stored {manifest.image_size}x{manifest.image_size}, crops of {crop}x{crop}"
    _write(sheet, title, [f"{label}   {key}" for label, key in zip(labels, keys, strict=True)], stored, seen)
    return [*notes, f"drew {sheet}"]


def _fitting(crop: int, augment: Augment, size: int) -> tuple[int, Augment, list[str]]:
    """Crop and settings that fit stored images of this size, and what was changed for it."""
    from workers.data.draws import crop_positions

    notes = []
    if crop > size:
        notes.append(
            f"note: crops of {crop} do not fit into the stored {size}x{size}; the sheet has crops of {size * 7 // 8}"
        )
        crop = size * 7 // 8
    try:
        crop_positions(augment, size, crop)
    except ValueError:
        notes.append(f"note: {augment.crop_positions} crop positions do not fit; the sheet takes all that do")
        augment = dataclasses.replace(augment, crop_positions=None)
    return crop, augment, notes


def _seen(
    folder: Path,
    manifest: "Manifest",
    augment: Augment,
    crop: int,
    seed: int,
    epoch: int,
    positions: NDArray[np.int64],
    stored_BSSC: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """[B, crop, crop, 3] what the network sees in this epoch, with the mean added again."""
    import torch

    from alexnet.augment import Preprocess
    from alexnet.colour import colour_basis
    from workers.data.draws import crop_positions, draw, first_offset
    from workers.data.manifest import pixel_statistics

    statistics, noise = pixel_statistics(manifest, folder), augment.colour_noise
    draws = draw(
        augment,
        seed=seed,
        epochs=np.full_like(positions, epoch),
        positions=positions,
        offsets_per_axis=crop_positions(augment, manifest.image_size, crop),
        first=first_offset(augment, manifest.image_size, crop),
        colour_basis=None if noise is None else colour_basis(noise, statistics),
    )
    crops = np.stack(
        [image[y : y + crop, x : x + crop] for image, (y, x) in zip(stored_BSSC, draws.offsets, strict=True)]
    )
    offsets, mirror = torch.from_numpy(draws.offsets), torch.from_numpy(draws.mirror)
    colour, noisy = (None if part is None else torch.from_numpy(part) for part in (draws.colour, draws.noisy))
    preprocess = Preprocess(augment, statistics, crop)
    inputs = preprocess(torch.from_numpy(crops), offsets, mirror, colour, noisy).clone()  # the next call writes over it
    # A black image's input is the mean with its sign turned.
    nothing = preprocess(torch.zeros(crops.shape, dtype=torch.uint8), offsets, mirror)
    visible = ((inputs - nothing) / augment.pixel_scale).permute(0, 2, 3, 1).round().clamp(0, 255)
    pixels: NDArray[np.uint8] = visible.to(torch.uint8).numpy()
    return pixels


def _write(
    sheet: Path, title: str, captions: list[str], stored: NDArray[np.uint8], seen: list[NDArray[np.uint8]]
) -> None:
    from PIL import Image, ImageDraw

    size, crop = stored.shape[1], seen[0].shape[1]
    heading, row_height = TEXT + 2 * MARGIN, size + TEXT + 2 * MARGIN
    width = MARGIN + size + MARGIN + EPOCHS * (crop + MARGIN)
    canvas = Image.new("RGB", (width, 2 * heading + row_height * len(stored)), "white")
    draw = ImageDraw.Draw(canvas)
    left = [MARGIN, *(2 * MARGIN + size + epoch * (crop + MARGIN) for epoch in range(EPOCHS))]
    _text(draw, MARGIN, MARGIN, title, width)
    for x, name in zip(left, ["stored", *(f"epoch {epoch}" for epoch in range(EPOCHS))], strict=True):
        _text(draw, x, heading, name, x + crop)
    for number, caption in enumerate(captions):
        top = 2 * heading + number * row_height
        for x, picture in zip(left, [stored[number], *(images[number] for images in seen)], strict=True):
            canvas.paste(Image.fromarray(picture), (x, top))
        _text(draw, MARGIN, top + size + MARGIN // 2, caption, width)
    try:
        canvas.save(sheet, "PNG")
    except OSError as error:
        raise UserError(f"cannot write {sheet}: {error.strerror}. Give another --sheet.") from None


def _text(draw: "ImageDraw.ImageDraw", x: int, y: int, text: str, end: int) -> None:
    """One line, cut where it would run beyond `end`."""
    from PIL import ImageFont

    font = ImageFont.load_default(TEXT)
    if not text.isascii():
        if found := font_of(text):
            font = ImageFont.truetype(found[1], TEXT)
        else:
            text = text.encode("ascii", "backslashreplace").decode()
    while draw.textlength(text, font) > end - x and len(text) > 1:
        text = text[:-1]
    draw.text((x, y), text, fill="black", font=font)
