"""Draws one step from a merged trace (`cluster.traces`): what each column computes, what travels meanwhile, who waits."""

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.paths import check_file
from cluster.traces import COLLECTIVES, FILE
from configs.errors import UserError

Event = dict[str, Any]

PHASES = {
    "waiting for data": "#e377c2",
    "preprocess": "#c7c7c7",
    "forward": "#9edae5",
    "loss": "#dbdb8d",
    "backward": "#c5b0d5",
    "update": "#98df8a",
    "errors": "#c7c7c7",
    "agreeing to go on": "#7f7f7f",
}
PARTS = {
    "own part": "#1f77b4",
    "others' part": "#17becf",
    "begin exchange": "#bcbd22",
    "waiting for exchange": "#d62728",
    "waiting for all-reduce": "#ff9896",
}
UNDER_WAY = {"all-gather": "#ff7f0e", "all-to-all": "#8c564b", "all-reduce": "#e7ba52"}
DECODING = "#2ca02c"
LABELLED_SHARE = 0.035
"""Of a panel's width; narrower bars have no name inside."""


@dataclass(kw_only=True)
class Lane:
    """A row of the picture: bars of (begin, duration, colour, name), in microseconds."""

    name: str
    bars: list[tuple[float, float, str, str]] = field(default_factory=list)


def draw_timeline(run: str, out: str, step: int | None) -> int:
    """Draw a step of the run in folder `run`; returns the exit code. Raises UserError if there is no trace, or no such step."""
    check_file(out, "--out")
    processes = read_trace(Path(run))
    begin, end, step = find_step(processes, step)
    lanes = lanes_of(processes)
    panels = [(begin, end)]
    if (zoom := first_exchange(lanes, begin, end)) is not None:
        panels.append(zoom)
    try:
        _draw(lanes, panels, f"step {step}: {(end - begin) / 1e3:,.0f} ms", out)
    except (OSError, ValueError) as error:  # matplotlib's, for a kind of file that it does not know
        raise UserError(f"--out {out} cannot be written: {error}") from None
    print(f"step {step} of {run}: {out}")
    return 0


def read_trace(run: Path) -> dict[str, list[Event]]:
    """Complete events of the merged trace by the name of their process. Raises UserError."""
    file = run / "profile" / FILE
    try:
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    except FileNotFoundError:
        raise UserError(
            f"there is no {file}; train with train.profile_steps=[first,last], two numbers of updates that are still to come"
        ) from None
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    found: dict[str, list[Event]] = {name: [] for name in names.values()}
    for event in events:
        if event["ph"] == "X":
            found[names[event["pid"]]].append(event)
    return found


def find_step(processes: dict[str, list[Event]], step: int | None) -> tuple[float, float, int]:
    """Begin and end of a step over all columns, and its number; the middle one if `step` is None. Raises UserError."""
    spans: dict[int, list[Event]] = {}
    for events in processes.values():
        for event in events:
            if event["cat"] == "user_annotation" and (found := re.fullmatch(r"step (\d+)", event["name"])):
                spans.setdefault(int(found[1]), []).append(event)
    steps = sorted(spans)
    if not steps or (step is not None and step not in spans):
        raise UserError(f"the trace has no step {step}; it has {', '.join(map(str, steps)) or 'none'}")
    step = steps[len(steps) // 2] if step is None else step
    own = spans[step]
    return min(event["ts"] for event in own), max(event["ts"] + event["dur"] for event in own), step


def lanes_of(processes: dict[str, list[Event]]) -> list[Lane]:
    """Three rows for each column, in their order, and one for each data worker."""
    found = []
    for name, events in processes.items():
        if all(event["cat"] == "data" for event in events):
            found.append(Lane(name=name, bars=[_bar(event, DECODING, "decoding") for event in events]))
            continue
        # On a GPU the host is ahead of it; what the GPU does has the same names.
        on_gpu = any(event["cat"] == "gpu_user_annotation" for event in events)
        named = [event for event in events if event["cat"] == ("gpu_user_annotation" if on_gpu else "user_annotation")]
        phases, parts, travels = Lane(name=name), Lane(name="parts"), Lane(name="under way")
        for event in named:
            if event["name"] in PHASES:
                phases.bars.append(_bar(event, PHASES[event["name"]], event["name"]))
            elif event["name"] in PARTS:
                parts.bars.append(_bar(event, PARTS[event["name"]], event["name"]))
        for event in events:
            if (kind := _collective(event)) is not None:
                travels.bars.append(_bar(event, UNDER_WAY[kind], kind))
        found += [phases, parts, travels]
    return found


def first_exchange(lanes: Sequence[Lane], begin: float, end: float) -> tuple[float, float] | None:
    """The stretch of time in which the columns deal with the step's first exchange; None if there is none."""
    firsts, lasts = [], []
    for lane in lanes:
        inside = sorted(bar for bar in lane.bars if begin <= bar[0] < end)
        begins = [bar[0] for bar in inside if bar[3] == "begin exchange"]
        if begins:
            firsts.append(begins[0])
            lasts += [bar[0] + bar[1] for bar in inside if bar[3] == "others' part" and bar[0] > begins[0]][:1]
    if not lasts:
        return None
    start, stop = min(firsts), max(lasts)
    return max(begin, start - 0.08 * (stop - start)), min(end, stop + 0.08 * (stop - start))


def _collective(event: Event) -> str | None:
    """What kind of collective a bar is, if it is one: gloo's own record, or NCCL's kernel."""
    name = event["name"].lower().replace("_", "")
    if not (event["name"].startswith(COLLECTIVES) or (event["cat"] == "kernel" and name.startswith("nccl"))):
        return None
    for kind, signs in (
        ("all-gather", ("allgather",)),
        ("all-to-all", ("alltoall", "sendrecv")),
        ("all-reduce", ("allreduce",)),
    ):
        if any(sign in name for sign in signs):
            return kind
    return None


def _bar(event: Event, colour: str, name: str) -> tuple[float, float, str, str]:
    return event["ts"], event["dur"], colour, name


def _draw(lanes: Sequence[Lane], panels: Sequence[tuple[float, float]], title: str, out: str) -> None:
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen
    from matplotlib.patches import Patch

    figure = Figure(figsize=(11, 0.9 + len(panels) * (0.7 + 0.3 * len(lanes))), layout="constrained")
    zero = panels[0][0]
    for number, (begin, end) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, number)
        for place, lane in enumerate(lanes):
            for start, length, colour, name in lane.bars:
                left, right = max(start, begin), min(start + length, end)
                if right <= left:
                    continue
                axes.barh(place, (right - left) / 1e3, left=(left - zero) / 1e3, height=0.8, color=colour)
                if right - left > LABELLED_SHARE * (end - begin) and name in PHASES:
                    middle = ((left + right) / 2 - zero) / 1e3
                    axes.text(middle, place, name, ha="center", va="center", fontsize=7, clip_on=True)
        axes.set_yticks(range(len(lanes)), [lane.name for lane in lanes], fontsize=8)
        axes.set_xlim((begin - zero) / 1e3, (end - zero) / 1e3)
        axes.set_ylim(len(lanes) - 0.4, -0.6)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(title if number == 1 else "its first exchange", fontsize=9, loc="left")
    axes.set_xlabel("ms from the beginning of the step", fontsize=8)
    shown = {**PARTS, **{f"{kind} under way": colour for kind, colour in UNDER_WAY.items()}}
    shown |= {"decoding": DECODING, "waiting for data": PHASES["waiting for data"]}
    patches = [Patch(color=colour, label=name) for name, colour in shown.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=5, fontsize=7, frameon=False)
    figure.savefig(out, dpi=110)
