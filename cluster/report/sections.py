"""The page's tables: the runs, their errors, tables 1 and 2, ablations, time and colour."""

from collections.abc import Mapping, Sequence
from shlex import quote

from cluster.console import clock
from cluster.report import ablations, colour, curves, spending, tables
from cluster.report.groups import Group, value_in_words
from cluster.report.markup import Html, details, element, joined, paragraph, table
from cluster.report.records import RunRecord
from cluster.report.words import DASH, HARD, percent, points

MOST_SETTINGS = 6
"""Differing settings of a configuration that are shown at once."""
NOISE_IMAGES = 20_000
"""With fewer validation images, the sampling of the images themselves is worth a word."""


def runs_table(records: Sequence[RunRecord]) -> Html:
    return table(
        ("run", "state", "steps", "epochs", "top-1 error", "top-5 error", "images/s", "where"),
        [
            (
                record.label,
                record.state.state,
                _steps(record),
                f"{record.epochs:.1f}",
                *_centre(record),
                f"{record.totals.images_per_second:,.0f}" if record.totals.images_per_second else DASH,
                _where(record),
            )
            for record in records
        ],
        words=(0, 1, 7),
        caption="Errors on the validation set by the centre view.",
    )


def state_note(record: RunRecord, step: int) -> Html:
    """What the page shows of a run that is not complete, or an empty text."""
    state = record.state
    whole = state.whole_steps
    of = f" of {whole:,}" if whole else ""
    if state.state == "complete" and step >= state.step:
        return Html("")
    words = {
        "running": f"{record.label} was still running when this page was made",
        "stopped": f"{record.label} was stopped before its end",
        "failed": f"{record.label} ended before its end{f' ({state.why})' if state.why else ''}",
        "complete": f"{record.label} is complete, but another checkpoint than its last was asked for",
    }[state.state]
    return element(
        "p",
        f"{words}: its log has come to step {state.step:,}{of}, and the network shown here has had {step:,} updates.",
        class_="note",
    )


def errors_section(records: Sequence[RunRecord]) -> Html:
    rows: list[tuple[str, ...]] = []
    for record in records:
        for found in (record.errors(1), record.errors(10)):
            if found is not None:
                counted = (_views(found.views), f"{found.step:,}", f"{found.images:,}", f"{found.loss:.4f}")
                rows.append((record.label, *counted, percent(found.top1, 2), percent(found.top5, 2)))
    together = {(one.networks, one.views, one.equal, one.top1): one for record in records for one in record.together()}
    for one in together.values():
        errors = (percent(one.top1, 2), percent(one.top5, 2))
        name = f"ensemble of {one.networks}{'' if one.equal else ', not of equal weights'}"
        rows.append((name, _views(one.views), "", f"{one.images:,}", "", *errors))
    if not rows:
        return paragraph("None of these runs has been tested on its validation set yet.")
    headings = ("run", "views", "after step", "images", "loss", "top-1 error", "top-5 error")
    shown = table(headings, rows, words=(0, 1), caption="Errors of these runs, on their validation sets.")
    untested = [record for record in records if record.errors(10) is None]
    if not untested:
        return shown
    ask = element("code", f"python -m cluster.evaluate {quote(str(untested[0].path))} --views 10")
    return joined((shown, paragraph("Errors by ten views appear here once ", ask, " has been run.")))


def paper_section(records: Sequence[RunRecord]) -> Html:
    """Tables 1 and 2."""
    known = [record for record in records if tables.data_of(record)]
    note = Html("")
    if not known:
        first = records[0]
        images = f" and {first.tested[-1].images:,} validation images" if first.tested else ""
        note = paragraph(
            f"Ours are dashes: {'these runs were' if len(records) > 1 else 'this run was'} trained on other data "
            f"({first.classes:,} classes{images}), whose errors cannot be compared with these."
        )
    return joined(
        (
            note,
            _paper_table("Table 1 of the paper: ILSVRC-2010, test set.", tables.table1(records), ("top-1", "top-5")),
            _paper_table(
                "Table 2 of the paper: ILSVRC-2012, validation and test set. * trained on the Fall 2011 release before.",
                tables.table2(records),
                ("top-1 (val)", "top-5 (val)", "top-5 (test)"),
            ),
        )
    )


def _paper_table(caption: str, lines: Sequence[tables.Line], columns: Sequence[str]) -> Html:
    rows = [
        (
            line.model,
            *(percent(value) for value in line.paper),
            *(percent(value, 2) for value in line.ours),
            line.by or DASH,
        )
        for line in lines
    ]
    headings = ("model", *(f"paper {name}" for name in columns), "ours top-1", "ours top-5", "ours: which")
    return table(headings, rows, words=(0, len(headings) - 1), caption=caption)


def goal_table(records: Sequence[RunRecord]) -> Html:
    """When each run reached 25 % training error."""
    found = [curves.reached(record) for record in records]
    first = found[0]
    rows = []
    for record, epoch in zip(records, found, strict=True):
        ratio = f"{epoch / first:.1f}" if epoch and first else DASH
        told = f"{epoch:.1f}" if epoch else f"not in {record.epochs:.1f}"
        rows.append((record.label, told, *((ratio,) if len(records) > 1 else ())))
    headings = ("run", "epochs to 25 % training error", *(("times the first run's",) if len(records) > 1 else ()))
    return table(headings, rows)


def ablations_section(groups: Sequence[Group]) -> Html:
    """Each configuration against the first; nothing if there is one alone."""
    if len(groups) < 2 and len(groups[0].runs) < 2:
        return Html("")
    views = ablations.views_of_all(groups)
    found = ablations.rows(groups, views)
    with_paper = any(row.paper for row in found)
    headings = ["configuration", "runs", "top-1 error", "change", "top-5 error", "change"]
    rows = [_ablation(row, with_paper) for row in found]
    headings += ["paper: change", "settings that differ"] if with_paper else ["settings that differ"]
    told = "ten views" if views == 10 else "the centre view"
    caption = (
        f"By {told}; changes from {groups[0].label} in points of per cent. Runs that differ in their seeds alone are one line: "
        "mean ± standard deviation."
    )
    words = (0, len(headings) - 1)
    left_out = ablations.left_out(groups, views)
    note = paragraph(f"In no mean, for they are not errors of a whole run: {', '.join(left_out)}.") if left_out else ""
    return joined((table(headings, rows, words=words, caption=caption), note, *_doubts(groups, found)))


def _ablation(row: ablations.Row, with_paper: bool) -> tuple[object, ...]:
    errors, label = row.errors, row.group.label
    count = f"{errors.runs if errors else len(row.group.runs)}"
    if errors is None:
        numbers: tuple[object, ...] = (DASH,) * 4
    else:
        doubt = f"{HARD}±{HARD}{100 * row.top1_doubt:.1f}" if row.top1_doubt is not None else ""
        numbers = (
            _spread(errors.top1, errors.top1_spread),
            points(row.top1_change) + doubt,
            _spread(errors.top5, errors.top5_spread),
            points(row.top5_change),
        )
    if with_paper:
        numbers += (" / ".join(part for part in row.paper.in_words if part) if row.paper else DASH,)
    return (label, count, *numbers, _settings(row.group))


def _spread(mean: float, deviation: float | None) -> str:
    return percent(mean) if deviation is None else f"{100 * mean:.1f}{HARD}±{HARD}{percent(deviation)}"


def _settings(group: Group) -> Html:
    if not group.differences:
        return Html("the reference")
    lines = [
        element(
            "li",
            element("code", one.path),
            f": {value_in_words(one.path, one.before)} → {value_in_words(one.path, one.after)}",
        )
        for one in group.differences
    ]
    shown, more = lines[:MOST_SETTINGS], lines[MOST_SETTINGS:]
    listed = element("ul", joined(shown), class_="settings")
    if not more:
        return listed
    return joined((listed, details(f"and {len(more)} more", element("ul", joined(more), class_="settings"))))


def _doubts(groups: Sequence[Group], found: Sequence[ablations.Row]) -> list[Html]:
    told = []
    errors = [row.errors for row in found if row.errors]
    images = min((run.tested[-1].images for group in groups for run in group.runs if run.tested), default=0)
    if errors and 0 < images < NOISE_IMAGES:
        deviation = ablations.sampling_deviation(errors[0].top1, images)
        told.append(
            paragraph(
                f"The validation set has {images:,} images: counted on other images of that number, a top-1 error would differ "
                f"by {percent(deviation)} (one standard deviation)."
            )
        )
    if any(row.top1_doubt is not None for row in found):
        told.append(
            paragraph("± behind a change is its standard error, from the spread over seeds of both configurations.")
        )
    if any(one.runs == 1 for one in errors):
        told.append(
            paragraph(
                "A configuration with one run has no spread: on ImageNet, differences below about 0.3 say nothing, and on a "
                "small data set larger ones."
            )
        )
    if any(row.paper for row in found):
        told.append(paragraph("The paper's changes (top-1 / top-5) are those of its network on ImageNet."))
    return told


def time_section(records: Sequence[RunRecord]) -> Html:
    names = list(spending.shares(records[0]))
    rows = [
        (
            record.label,
            f"{record.totals.images_per_second:,.0f}" if record.totals.images_per_second else DASH,
            f"{record.totals.images:,}",
            clock(record.wall_seconds),
            *(percent(share, 0) for share in spending.shares(record).values()),
        )
        for record in records
    ]
    return table(("run", "images/s in steps", "images", "wall time", *names), rows)


def colour_section(found: Mapping[str, tuple[list[colour.ColumnColour], float | None]]) -> Html:
    """found: of each run, its columns, and how often chance does the same."""
    rows = [
        (
            label if number == 0 else "",
            f"column {number}",
            f"{column.kernels}",
            f"{column.mean:.2f}",
            percent(column.above, 0),
            "" if number or by_chance is None else percent(by_chance) if by_chance >= 0.001 else f"below 0.1{HARD}%",
        )
        for label, (columns, by_chance) in found.items()
        for number, column in enumerate(columns)
    ]
    headings = ("run", "column", "kernels", "mean colour share", f"kernels above {colour.THRESHOLD:g}", "by chance")
    return table(headings, rows, words=(0, 1))


def _views(views: int) -> str:
    return "centre" if views == 1 else "ten"


def _steps(record: RunRecord) -> str:
    whole = record.state.whole_steps
    return f"{record.state.step:,}" + (f" of {whole:,}" if whole and whole != record.state.step else "")


def _centre(record: RunRecord) -> tuple[str, str]:
    found = record.errors(1)
    return (DASH, DASH) if found is None else (percent(found.top1), percent(found.top5))


def _where(record: RunRecord) -> str:
    columns = record.state.start.get("columns", [])
    devices: dict[str, int] = {}
    for one in columns:
        devices[str(one["device"])] = devices.get(str(one["device"]), 0) + 1
    told = ", ".join(f"{count} × {device}" for device, count in devices.items())
    return f"{told}, {record.state.start['host']}" if told else DASH
