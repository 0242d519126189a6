"""Verdicts from made-up reports: said when they hold, with the right numbers, never of a healthy run, and not over and over."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster.verdicts import (
    Setting,
    loss_at_chance,
    no_progress,
    recent,
    slower_column,
    steps_at_chance,
    usual_seconds,
    waiting_for_data,
)
from cluster.watch import Watch
from tests.cluster.reports import evaluation, restart, saved, start, train
from workers.mesh import Mesh
from workers.reports import TrainReport

Reports = list[TrainReport]
SETTING = Setting(
    mesh=Mesh(replicas=1, processes_per_replica=2, columns_per_process=1, device="cpu"),
    classes=1000,
    data_workers=2,
    cpus_per_data_worker=1.0,
    steps_per_epoch=10_009.0,
    validation_images=6400,
    evaluates_after=lambda step: step % 500 == 0,
)
ONE_PROCESS = Mesh(replicas=1, processes_per_replica=1, columns_per_process=2, device="cuda")
TWO_REPLICAS = Mesh(replicas=2, processes_per_replica=2, columns_per_process=1, device="cpu")


def several(count: int = 8, **values: Any) -> Reports:
    return [train(20 * (number + 1), **values) for number in range(count)]


def at_chance(last: int, *more: TrainReport) -> Reports:
    """ln(1000) = 6.9078, from step 40 on."""
    return [train(20, loss=7.2), *(train(step, loss=6.9) for step in range(40, last + 1, 20)), *more]


def decoding(reports: Reports, *seconds: float) -> Reports:
    """As if each replica's data workers were busy for so many seconds from one report to the next."""
    return [
        replace(one, feeds=[{**(one.feeds or [{}])[0], "seconds_decoding": each * number} for each in seconds])
        for number, one in enumerate(reports)
    ]


WAITING = several(data=(0.1, 1.5), exchange=(1.9, 0.5))
"""Column 1 waits 1.5 of 5 s: 30 %. Two workers make 70 % of what is wanted, so 0.86 more are wanted: 1."""
# In the 20 s from the third report to the last, two workers are idle, or busy.
IDLE = [train(20 * number, data=(1.5, 1.5), decoding=1.6 * number, time=4.0 * number) for number in range(1, 9)]
REPLICA_1_WAITS = decoding(several(data=(0.0, 0.0, 2.0, 2.0), exchange=(0.5,) * 4, compute=(3.0,) * 4), 100.0, 0.1)
NOW_AND_THEN = several(15, compute=(2.0, 2.5))
NOW_AND_THEN[-3] = train(260, compute=(2.1, 2.0))


@pytest.mark.parametrize(
    ("verdict", "reports", "changes", "words"),
    [
        (waiting_for_data, WAITING, {}, "data workers are the bottleneck: 30% of the step is waiting for data; "),
        (waiting_for_data, WAITING, {}, "; give them 1 more CPU per replica (cluster.data_workers=3)"),
        (waiting_for_data, several(data=(9.0, 9.0)), {"cpus_per_data_worker": 0.5}, "3 more CPUs per replica"),
        (waiting_for_data, several(data=(9.0, 9.0)), {"cpus_per_data_worker": 0.5}, "(cluster.data_workers=8)"),
        (waiting_for_data, several(data=(0.8, 0.8)), {}, None),  # 19 %
        (waiting_for_data, several(data=(0.9, 0.9)), {}, "data"),  # 20 %
        (waiting_for_data, IDLE, {}, "though data workers work only 20% of the time: look at what holds them up"),
        (waiting_for_data, decoding(IDLE, 8.0), {}, "data workers are the bottleneck"),
        (waiting_for_data, REPLICA_1_WAITS, {"mesh": TWO_REPLICAS}, "though data workers work only 1% of the time"),
        # Half an epoch would be 5,005 steps, and 5,000 are enough.
        (loss_at_chance, at_chance(5020), {}, None),
        (loss_at_chance, at_chance(5040), {}, "the loss has stood at ln(classes) = 6.91 for 5,000 steps"),
        (loss_at_chance, at_chance(5040), {}, "learning rate (0.01 now; schedule)"),
        (loss_at_chance, at_chance(5040), {}, "labels"),
        (loss_at_chance, at_chance(5040, train(5060, loss=6.91, rate=0.0)), {}, "the learning rate is 0 (schedule)"),
        (loss_at_chance, at_chance(5040, train(5060, loss=6.8)), {}, None),
        (loss_at_chance, at_chance(5040, train(5060, loss=math.nan)), {}, None),
        (slower_column, several(12, compute=(2.5, 2.8), exchange=(0.8, 0.5)), {}, "column 1 is slower than column 0 by 12%"),
        (slower_column, several(12, compute=(4.0, 2.0)), {}, "column 0 is slower than column 1 by 100%, and the others wait"),
        (slower_column, several(12, compute=(2.5, 2.7)), {}, None),  # 8 % is noise
        (slower_column, several(15, compute=(2.0, 2.5)), {}, "slower"),
        (slower_column, NOW_AND_THEN, {}, None),
        (slower_column, several(12, data=(0.0,), exchange=(0.0,), compute=(3.0,)), {"mesh": ONE_PROCESS}, None),
    ],
)  # fmt: skip
def test_verdicts(
    verdict: Callable[[Reports, Setting], Any], reports: Reports, changes: dict[str, Any], words: str | None
) -> None:
    found = verdict(reports, replace(SETTING, **changes))
    assert (found is None) == (words is None)
    assert words is None or words in found.text


def test_speeds_are_judged_by_enough_reports_and_enough_seconds_and_not_by_the_first() -> None:
    """Reports of 3.5 s: five are enough by both; of 0.5 s, twenty."""
    assert recent(several(5), 5, 10.0) is None
    assert recent(several(6), 5, 10.0) == several(6)[1:]
    quick = {"exchange": (0.1, 0.1), "compute": (0.4, 0.4)}
    assert recent(several(20, **quick), 5, 10.0) is None
    found = recent(several(30, **quick), 5, 10.0)
    assert found is not None and len(found) in (20, 21), "0.1 + 0.4, twenty times, may be a little less than 10"


SLOW: dict[str, Any] = {"exchange": (5.0, 5.0), "compute": (30.0, 30.0)}


@pytest.mark.parametrize(
    ("reports", "seconds", "words"),
    [
        # Reports every 2 s, and every 100 s.
        ([train(step, time=step / 10) for step in (20, 40, 60)], (59.0, 61.0), "no progress for 1:01, after step 60; "),
        ([train(step, time=step / 10) for step in (20, 40, 60)], (59.0, 61.0), "a report comes every 0:02 or so"),
        ([train(step, time=step * 5.0) for step in (20, 40, 60)], (299.0, 301.0), ""),
        # An evaluation is due: 6,400 images at 1,280 in 35 s take 175 s, and three times that may pass.
        ([train(step, time=float(step), **SLOW) for step in (460, 480, 500)], (520.0, 530.0), ""),
    ],
)
def test_no_progress_is_said_after_a_minute_and_later_where_more_is_usual(
    reports: Reports, seconds: tuple[float, float], words: str
) -> None:
    last = reports[-1].time
    assert no_progress(reports, SETTING, now=last + seconds[0]) is None
    found = no_progress(reports, SETTING, now=last + seconds[1])
    assert found is not None and words in found.text


def test_what_is_usual() -> None:
    """An evaluation is due after step 500 and not after 480; before the first step nothing is expected.

    A network has half an epoch to leave chance, within limits.
    """
    for per_epoch, steps in ((78.0, 1000), (4000.0, 2000), (10_009.0, 5000)):
        assert steps_at_chance(replace(SETTING, steps_per_epoch=per_epoch)) == steps
    for last, seconds in ((500, 6400 * 35 / 1280), (480, 20.0)):
        reports = [train(step, time=float(step), **SLOW) for step in (last - 40, last - 20, last)]
        assert usual_seconds(reports, SETTING) == pytest.approx(seconds)
    assert no_progress([], SETTING, now=1e6) is None
    assert no_progress([saved(0, time=0.0)], SETTING, now=1e6) is None


def test_a_healthy_run_is_left_alone() -> None:
    """Noise of 5 %, an evaluation and a checkpoint now and then, a loss that leaves ln(classes) after 3,000 steps."""
    noise = random.Random(1)
    reports: Reports = []
    for step in range(20, 12_000, 20):
        compute = (3.0 * noise.gauss(1, 0.05), 3.0 * noise.gauss(1, 0.05))
        wait = (max(compute) - compute[0] + 0.4, max(compute) - compute[1] + 0.4)
        loss = 6.91 if step < 3000 else 6.91 * 0.9998 ** (step - 3000)
        data = (abs(noise.gauss(0, 0.1)), 0.0)
        reports.append(train(step, loss=loss, compute=compute, exchange=wait, data=data))
        assert loss_at_chance(reports, SETTING) is None, step
        for verdict in (waiting_for_data, slower_column):
            assert verdict(reports[-100:], SETTING) is None, step
        if step % 500 == 0:
            assert no_progress([*reports[-20:], evaluation(step)], SETTING, now=step / 5 + 50.0) is None


WAIT: dict[str, Any] = {"data": (1.5, 1.5)}  # of 5 s: 30 %


@pytest.fixture
def watch() -> Watch:
    return Watch(SETTING)


def said(watch: Watch, begin: int, end: int, **values: Any) -> list[str]:
    return [line for step in range(begin, end, 20) for line in watch.hear(train(step, **values))]


def test_a_verdict_is_said_once_and_once_when_it_is_over(watch: Watch) -> None:
    assert said(watch, 20, 200) == []
    [first] = said(watch, 200, 2000, **WAIT)
    assert first.startswith("data workers are the bottleneck: ")
    assert said(watch, 2000, 4000) == ["data workers keep up again"]
    assert len(said(watch, 4000, 5000, **WAIT)) == 1, "it is news again"
    assert said(watch, 5000, 5060) == [], "a moment without it is not its end"
    assert said(watch, 5060, 5400, **WAIT) == []


def test_what_has_grown_is_said_again(watch: Watch) -> None:
    assert len(said(watch, 20, 400, **WAIT)) == 1
    assert said(watch, 400, 800, data=(2.0, 2.0)) == [], "from 30 to 36 % is no news"
    again = said(watch, 800, 1200, data=(9.0, 9.0))
    shares = [int(line.split(": ")[1].split("%")[0]) for line in again]
    assert 1 <= len(shares) <= 3 and shares == sorted(shares), "more than once, if it grows through the window"


def test_what_goes_up_and_down_around_its_limit_is_said_once(watch: Watch) -> None:
    """A share of 16 to 25 % in turn, for ten reports each."""
    lines = []
    for begin in range(20, 4000, 400):
        lines += said(watch, begin, begin + 200, data=(1.15, 1.15))
        lines += said(watch, begin + 200, begin + 400, data=(0.65, 0.65))
    assert len(lines) == 1 and "25% of the step" in lines[0]
    assert said(watch, 4020, 4400) == ["data workers keep up again"]


def test_after_a_restart_the_warming_up_is_left_out_again(watch: Watch) -> None:
    """The first report of a start waits for its first batch; old and new reports are not mixed."""
    for begin, first in ((20, start()), (120, restart(100))):
        watch.hear(first)
        watch.hear(train(begin, data=(60.0, 60.0)))
        assert said(watch, begin + 20, begin + 180) == []
    for _ in range(3):  # four reports are too few each time
        watch.hear(restart(100))
        assert said(watch, 120, 200, **WAIT) == []


def test_what_holds_on_after_a_restart_is_not_said_to_be_over(watch: Watch) -> None:
    """A loss at ln(classes) for 5,020 steps, a restart at 5,000, and the same again: it is said when it is seen anew."""
    for begin, end in ((20, 5040), (5020, 10_060)):
        lines = said(watch, begin, end, loss=6.9, **WAIT)
        assert [line[:16] for line in lines] == ["data workers are", "the loss has sto"]
        watch.hear(restart(5000))


def test_a_halt_is_said_as_it_grows_and_ends_with_the_next_report(watch: Watch) -> None:
    said(watch, 20, 100)  # the last report is of second 16
    spoken = [(now, line) for now in range(20, 1000, 5) for line in watch.look(float(now))]
    assert [now for now, _ in spoken] == [80, 145, 275, 535], "whenever it has doubled since it was said"
    assert all("no progress for" in line for _, line in spoken)
    assert watch.hear(evaluation(80, time=990.0)) == ["it goes on"]
    assert watch.look(1000.0) == []


def test_a_loss_that_never_leaves_chance_is_said_as_its_time_doubles(watch: Watch) -> None:
    spoken = [(step, line) for step in range(20, 45_000, 20) for line in watch.hear(train(step, loss=6.9))]
    assert [step for step, _ in spoken] == [5020, 10_020, 20_020]
    assert all("ln(classes) = 6.91" in line for _, line in spoken)
    assert "for 20,000 steps" in spoken[-1][1]
