"""What is wrong with a run, in words, worked out from its reports: said once, and again only when it has grown or is over.

Each judgement is a pure function of a window of reports (and, for progress, of the time). All are silent in a healthy run.
Those of speeds hold on to what was said: with `said`, it is over only at half of what it began with.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.console import clock
from cluster.totals import step_seconds
from workers.mesh import Mesh
from workers.reports import Report, TrainReport

Reports = Sequence[TrainReport]

WAITING = 0.2
"""Share of the step time from which waiting for data is said."""
SLOWER = 0.1
"""How much more time than the quickest column another may take to compute before it is said."""
AT_CHANCE = 0.01
"""How far from ln(classes) a loss may be, relative to it, and still say nothing about the images."""
SHORTEST_STALL_SECONDS = 60.0
"""Without a report; longer where reports are rare."""
DATA_REPORTS, DATA_SECONDS = 5, 10.0
COLUMN_REPORTS, COLUMN_SECONDS = 10, 30.0
"""What a judgement looks at, at least; the first report of a start, with its warming up, is no part of it. Five reports in which
the same column happens to be the slower one come up every now and then where times vary by 5 %; ten do not."""
MOST_STEPS_AT_CHANCE = 5000
FEWEST_STEPS_AT_CHANCE = 1000
"""A healthy network may take half an epoch to leave ln(classes), but within these limits."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a judgement must know of the run."""

    mesh: Mesh
    classes: int
    data_workers: int
    """Per replica."""
    cpus_per_data_worker: float
    steps_per_epoch: float
    validation_images: int
    """Per replica."""
    evaluates_after: Callable[[int], bool]
    """Whether an evaluation follows a step."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    key: str
    text: str
    over: str
    """What is said when it no longer holds."""
    grade: float
    """How bad it is; what has grown by 1 is said again."""


def waiting_for_data(reports: Reports, setting: Setting, *, said: bool = False) -> Verdict | None:
    """The largest share of the step time that any process spent waiting for data, and what would help."""
    window = recent(reports, DATA_REPORTS, DATA_SECONDS)
    if window is None:
        return None
    shares = [
        data / max(data + exchange + compute, 1e-9)
        for data, exchange, compute in zip(
            *(_by_rank(window, what) for what in ("data", "exchange", "compute")), strict=True
        )
    ]
    rank = max(range(len(shares)), key=shares.__getitem__)
    share, busy = shares[rank], _data_workers_busy(reports, window, setting, setting.mesh.replica(rank))
    if share < (WAITING / 2 if said else WAITING):
        return None
    if busy is not None and busy < 0.5:
        text = (
            f"{share:.0%} of the step is waiting for data, though data workers work only {busy:.0%} of the time: look at what "
            "holds them up, or lies between them and the columns (processes that do not get to run, object store full and "
            "spilling to disk, network; cluster.window_batches)"
        )
    else:
        # In the time that now brings (1 - share) of what is wanted, so many times as much is to come.
        more = math.ceil(setting.data_workers * share / max(1.0 - share, 0.05))
        workers, cpus = setting.data_workers + more, more * setting.cpus_per_data_worker
        text = (
            f"data workers are the bottleneck: {share:.0%} of the step is waiting for data; give them {cpus:g} more "
            f"CPU{'' if cpus == 1 else 's'} per replica (cluster.data_workers={workers})"
        )
    return Verdict(key="data", text=text, over="data workers keep up again", grade=share / 0.15)


def loss_at_chance(reports: Reports, setting: Setting) -> Verdict | None:
    """A loss that has stood at that of a network that knows nothing."""
    chance = math.log(setting.classes)
    since = None
    for report in reversed(reports):
        if not abs(report.loss - chance) <= AT_CHANCE * chance:
            break
        since = report
    if since is None:
        return None
    steps, enough = reports[-1].step - since.step, steps_at_chance(setting)
    if steps < enough:
        return None
    rate = reports[-1].weights_rate
    look = (
        "the learning rate is 0 (schedule)"
        if rate == 0
        else f"look at the learning rate ({rate:g} now; schedule), the initial weights (init_std) and the labels "
        "(python -m cluster.prepare stats)"
    )
    return Verdict(
        key="chance",
        text=f"the loss has stood at ln(classes) = {chance:.2f} for {steps:,} steps, as if the network saw nothing: {look}",
        over="the loss has left ln(classes)",
        grade=math.log2(steps / enough),
    )


def steps_at_chance(setting: Setting) -> float:
    return min(MOST_STEPS_AT_CHANCE, max(FEWEST_STEPS_AT_CHANCE, setting.steps_per_epoch / 2))


def slower_column(reports: Reports, setting: Setting, *, said: bool = False) -> Verdict | None:
    """A column that computes longer than the others, in every report of the window; means over replicas.

    On GPUs, where the host does not wait for the exchange, all columns seem alike.
    """
    window, columns = recent(reports, COLUMN_REPORTS, COLUMN_SECONDS), setting.mesh.processes_per_replica
    if window is None or columns == 1:
        return None

    def seconds(part: Reports) -> list[float]:
        each = _by_rank(part, "compute")
        return [sum(each[column::columns]) for column in range(columns)]

    whole = seconds(window)
    slow, quick = max(range(columns), key=whole.__getitem__), min(range(columns), key=whole.__getitem__)
    always = all(one[slow] > one[quick] for one in (seconds([report]) for report in window))
    more = whole[slow] / max(whole[quick], 1e-9) - 1.0
    if more < (SLOWER / 2 if said else SLOWER) or not (always or said):
        return None
    first, second = (setting.mesh.name(place).split(" ", 1) for place in (slow, quick))
    names = [f"{kind} {where.split(' c')[1]}" for kind, where in (first, second)]
    return Verdict(
        key="column",
        text=f"{names[0]} is slower than {names[1]} by {more:.0%}, and the others wait for it: look at what else runs on its "
        "CPUs or GPU, and at its clock and temperature",
        over="the columns are equally quick again",
        grade=more / 0.15,
    )


def no_progress(reports: Sequence[Report], setting: Setting, now: float) -> Verdict | None:
    """No report for much longer than usual. reports: of all kinds. now: seconds since 1970."""
    if not reports or not any(isinstance(report, TrainReport) for report in reports):
        return None  # starting may take long, and has a time limit of its own
    last = reports[-1]
    silent, usual = now - last.time, usual_seconds(reports, setting)
    limit = max(SHORTEST_STALL_SECONDS, 3.0 * usual)
    if silent < limit:
        return None
    return Verdict(
        key="progress",
        text=f"no progress for {clock(silent)}, after step {last.step:,}; a report comes every {clock(usual)} or so. "
        "What each process is doing: `py-spy dump --pid PID` on its machine (pids: Actors in Ray's dashboard)",
        over="it goes on",
        grade=math.log2(silent / limit),
    )


def usual_seconds(reports: Sequence[Report], setting: Setting) -> float:
    """How long after the last of these reports the next one usually comes."""
    last = reports[-1]
    gaps = [
        after.time - before.time
        for before, after in itertools.pairwise(reports)
        if after.kind == last.kind or not isinstance(last, TrainReport)
    ]
    usual = max(gaps, default=0.0)
    if isinstance(last, TrainReport) and setting.evaluates_after(last.step):
        # Testing takes no longer than training on as many images.
        speed = last.images_per_second / setting.mesh.replicas
        usual = max(usual, setting.validation_images / max(speed, 1e-9))
    return usual


def recent(reports: Reports, enough_reports: int, enough_seconds: float) -> Reports | None:
    """The newest training reports that are so many and cover so much step time, without the first; None if there are too few."""
    seconds = 0.0
    for count in range(1, len(reports)):
        seconds += sum(sum(each) for each in step_seconds(reports[-count]).values()) / _ranks(reports[-count])
        if count >= enough_reports and seconds >= enough_seconds:
            return reports[-count:]
    return None


def _ranks(report: TrainReport) -> int:
    return len(report.by_rank["compute_seconds"])


def _by_rank(reports: Reports, what: str) -> list[float]:
    return [sum(each) for each in zip(*(step_seconds(report)[what] for report in reports), strict=True)]


def _data_workers_busy(reports: Reports, window: Reports, setting: Setting, replica: int) -> float | None:
    """Share of the window's time that a replica's data workers spent making batches; None if it is not known."""
    before, after = reports[len(reports) - len(window) - 1], window[-1]
    feeds = [report.feeds or [] for report in (before, after)]
    if any(len(each) <= replica or "seconds_decoding" not in each[replica] for each in feeds):
        return None
    made: float = feeds[1][replica]["seconds_decoding"] - feeds[0][replica]["seconds_decoding"]
    seconds = after.seconds - before.seconds
    return made / (seconds * setting.data_workers) if seconds > 0 and made >= 0 else None
