"""What the page says, section by section, with its pictures and the numbers behind them."""

import dataclasses
import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.report import ablations, colour, curves, figure4_drawn, figure4_shown, sections, spending, tables
from cluster.report.colour_drawn import draw_colour
from cluster.report.groups import Group
from cluster.report.kernels import draw_kernels
from cluster.report.markup import Html, details, element, figure, joined, paragraph, picture, png
from cluster.report.page import Section, page
from cluster.report.records import RunRecord
from configs.geometry import layers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cluster.network import LoadedNetwork
    from cluster.report.figure4 import Figure4

Pictures = dict[str, bytes]
Colours = dict[str, tuple[list[colour.ColumnColour], float | None]]


@dataclass(frozen=True, kw_only=True)
class Contents:
    records: list[RunRecord]
    groups: list[Group]
    loaded: "LoadedNetwork"
    """The first run's."""
    kernels: "dict[str, tuple[NDArray[np.float32], int]]"
    """By run: kernels of the first layer [O, C, K, K], and how many columns they are of. Runs without any are left out."""
    figure4: "Figure4 | None"
    without_figure4: str
    """Why it is None."""


def make_page(contents: Contents) -> tuple[str, Pictures, dict[str, Any]]:
    """The page, the PNG files by name, and the numbers as they go into JSON."""
    records, pictures = contents.records, dict[str, bytes]()
    first = records[0]
    colours = {
        label: (colour.by_column(shares, columns), colour.chance(shares, columns))
        for label, shares, columns in (
            (label, colour.colour_shares(kernels), columns) for label, (kernels, columns) in contents.kernels.items()
        )
    }
    title = f"Report: {', '.join(record.label for record in records[:3])}"
    if len(records) > 3:
        title += f" and {len(records) - 3} more"
    lead = paragraph(
        f"Made {time.strftime('%Y-%m-%d %H:%M')}. Figures and tables of ImageNet Classification with Deep Convolutional Neural "
        "Networks (Krizhevsky, Sutskever and Hinton, 2012), from runs of this project, beside the paper's numbers. ",
        f"Figures 3 and 4 show {first.label} after {contents.loaded.updates:,} updates.",
    )
    notes = sections.state_note(first, contents.loaded.updates)
    content = page(
        title,
        lead,
        [
            Section(anchor="runs", title="Runs", content=joined((sections.runs_table(records), notes))),
            Section(anchor="errors", title="Errors", content=_errors(records)),
            Section(
                anchor="ablations", title="What settings are worth", content=sections.ablations_section(contents.groups)
            ),
            Section(anchor="figure1", title="Figure 1: training error", content=_figure1(contents, pictures)),
            Section(anchor="figure3", title="Figure 3: first kernels", content=_figure3(contents, colours, pictures)),
            Section(anchor="figure4", title="Figure 4", content=_figure4(contents, pictures)),
            Section(anchor="curves", title="Curves", content=_curves(contents, pictures)),
            Section(anchor="time", title="Where time went", content=_time(contents, pictures)),
            Section(anchor="settings", title="Settings", content=_settings(records)),
        ],
    )
    return content, pictures, _numbers(contents, colours)


def _errors(records: list[RunRecord]) -> Html:
    return joined(
        (sections.errors_section(records), element("h3", "The paper's tables"), sections.paper_section(records))
    )


def _figure1(contents: Contents, pictures: Pictures) -> Html:
    records = contents.records
    if not any(record.train for record in records):
        return paragraph("No training has been reported yet.")
    pictures["figure1.png"] = curves.draw_figure1(contents.groups)
    reached = [(record.label, curves.reached(record)) for record in records]
    told = "; ".join(
        f"{name}: {'never' if epoch is None else f'after {epoch:.1f} epochs'}" for name, epoch in reached[:6]
    )
    caption = (
        "Top-1 error on the training images as the network meets them: cropped, mirrored, with dropout where there is some. Each "
        "point is the mean over a part of an epoch. The dashed line is at 25 %. In the paper's figure 1, a four-layer network on "
        "CIFAR-10 with rectifiers gets there six times sooner than with hyperbolic tangents (here: figure1_relu.yaml and "
        "figure1_tanh.yaml)."
    )
    shown = picture(pictures["figure1.png"], f"Training error rate over epochs. 25 % is reached: {told}.")
    return joined((figure(shown, caption), sections.goal_table(records)))


def _figure3(contents: Contents, colours: Colours, pictures: Pictures) -> Html:
    parts: list[Html] = []
    first = contents.records[0].label
    for label, (kernels, columns) in contents.kernels.items():
        name = "figure3.png" if label == first else f"figure3-{_file_part(label)}.png"
        pictures[name] = png(draw_kernels(kernels, columns))
        count, side = kernels.shape[0], kernels.shape[-1]
        alt = f"The {count} kernels of {label}'s first layer, {side} by {side} pixels, column by column from the top"
        caption = (
            f"The {count} kernels of {side}×{side}×3 that {label}'s first layer has learned, {count // columns} per column, "
            "column 0 at the top. Each kernel is scaled to itself: mid-grey is a weight of zero."
        )
        shown = figure(picture(pictures[name], alt), caption)
        parts.append(shown if not parts else details(f"Kernels of {label}", shown))
    if first not in contents.kernels:
        parts.insert(
            0, paragraph(f"{first}'s first layer is no convolution with one set of kernels: there is nothing to show.")
        )
    return joined((*parts, _colour(contents, colours, pictures)))


def _colour(contents: Contents, colours: Colours, pictures: Pictures) -> Html:
    if not colours:
        return Html("")
    label = next(iter(colours))
    kernels, columns = contents.kernels[label]
    pictures["colour.png"] = draw_colour(colour.colour_shares(kernels), columns)
    drawn = figure(
        picture(pictures["colour.png"], f"Colour shares of {label}'s kernels, sorted, one curve per column"),
        f"Colour share of each kernel of {label}, by column, in falling order.",
    )
    definition = paragraph(
        "Section 6.1 of the paper finds that one GPU's kernels are largely colour-agnostic and the other's largely "
        "colour-specific, in every run. Measured here by each kernel's ",
        element("em", "colour share"),
        ": at each position a kernel has three weights r, g, b; the part along the grey axis, (r + g + b)²/3, sees "
        "brightness, and the share of the sum of r² + g² + b² over the kernel that is not along it is its colour share. 0: "
        "grey; 1: the three "
        f"weights add up to zero everywhere. Above {colour.THRESHOLD:g} a kernel has more colour in it than brightness. Random "
        f"weights have {colour.UNTRAINED:.2f} on average, so noisy kernels measure high: look at the picture too. “By chance”: "
        "how often the columns' means differ as much if the same kernels are dealt out to columns at random.",
    )
    told = colour.in_words(*colours[label])
    return joined(
        (
            element("h3", "How colour-specific each column is"),
            paragraph(told) if told else "",
            sections.colour_section(colours),
            drawn,
            definition,
        )
    )


def _figure4(contents: Contents, pictures: Pictures) -> Html:
    found, names = contents.figure4, contents.loaded.class_names
    if found is None:
        return element(
            "p", f"Figure 4 is left out, for its images cannot be had: {contents.without_figure4}", class_="note"
        )
    pictures["figure4_left.png"] = figure4_drawn.draw_predictions(found.predicted, names)
    if found.queries:
        pictures["figure4_right.png"] = figure4_drawn.draw_neighbours(found.queries, names)
    return joined((figure4_shown.predictions(found, names), figure4_shown.neighbours(found, names)))


def _curves(contents: Contents, pictures: Pictures) -> Html:
    if not any(record.train for record in contents.records):
        return Html("")
    drawn = (
        ("errors", curves.draw_errors, "Error rates over epochs, training and validation", "Error rates over epochs."),
        ("loss", curves.draw_losses, "Loss over epochs, training and validation", "Loss (cross-entropy) over epochs."),
        ("rates", curves.draw_rates, "Learning rates over epochs", "Learning rates, as they were at each report."),
        (
            "speed",
            curves.draw_speed,
            "Images per second in training steps, over epochs",
            "Images per second in training steps: without evaluations and checkpoints.",
        ),
    )
    shown = []
    for name, draw, alt, caption in drawn:
        pictures[f"{name}.png"] = draw(contents.groups)
        shown.append(figure(picture(pictures[f"{name}.png"], alt), caption))
    return element("div", *shown, class_="side")


def _time(contents: Contents, pictures: Pictures) -> Html:
    records = contents.records
    if not any(record.train for record in records):
        return Html("")
    pictures["time.png"] = spending.draw_spending(records)
    caption = "Where wall time went. Waiting for other columns is the exchange that computing did not hide."
    spent = figure(picture(pictures["time.png"], "What the wall time of each run went on, as bars"), caption)
    return joined((sections.time_section(records), spent))


def _settings(records: list[RunRecord]) -> Html:
    import yaml

    return joined(
        details(record.label, element("pre", yaml.safe_dump(record.settings, sort_keys=False, allow_unicode=True)))
        for record in records
    )


def _numbers(contents: Contents, colours: Colours) -> dict[str, Any]:
    """report.json: what is on the page, for other programs."""
    views = ablations.views_of_all(contents.groups)
    found = contents.figure4
    return {
        "network": contents.loaded.source,
        "updates": contents.loaded.updates,
        "parameters": sum(layer.parameters for layer in layers(contents.loaded.network)),
        "runs": [
            {
                "label": record.label,
                "path": str(record.path),
                "state": record.state.state,
                "step": record.state.step,
                "epochs": record.epochs,
                "epochs_to_25_percent": curves.reached(record),
                "errors": {str(views): _plain(record.errors(views)) for views in (1, 10)},
                "images_per_second": record.totals.images_per_second,
                "wall_seconds": record.wall_seconds,
                "time": spending.shares(record),
            }
            for record in contents.records
        ],
        "ablations": [
            {
                "label": row.group.label,
                "runs": [run.label for run in row.group.runs],
                "views": views,
                "errors": _plain(row.errors),
                "top1_change": row.top1_change,
                "top1_doubt": row.top1_doubt,
                "top5_change": row.top5_change,
                "differences": [_plain(one) for one in row.group.differences],
            }
            for row in ablations.rows(contents.groups, views)
        ],
        "table1": [_plain(line) for line in tables.table1(contents.records)],
        "table2": [_plain(line) for line in tables.table2(contents.records)],
        "colour": {
            label: {"columns": [_plain(column) for column in columns], "by_chance": by_chance}
            for label, (columns, by_chance) in colours.items()
        },
        "figure4": None
        if found is None
        else {
            "predicted": [{"image": one.key, "label": one.label, "top": one.top} for one in found.predicted],
            "nearest": [
                {
                    "image": query.key,
                    "label": query.label,
                    "neighbours": [
                        {"image": one.key, "label": one.label, "distance": one.distance} for one in query.neighbours
                    ],
                }
                for query in found.queries
            ],
            "searched": found.searched,
        },
    }


def _plain(one: Any) -> Any:
    """A dataclass as JSON has it, which knows no NaN."""
    if one is None:
        return None
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in dataclasses.asdict(one).items()
    }


def _file_part(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", label)
