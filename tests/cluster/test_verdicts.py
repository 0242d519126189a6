"""Verdicts from made-up reports: said when they hold, with the right numbers, and never of a healthy run."""

import math
import random
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
from tests.cluster.reports import evaluation, saved, train
from workers.mesh import Mesh

SETTING = Setting(
    mesh=Mesh(replicas=1, processes_per_replica=2, columns_per_process=1, device="cpu"),
    classes=1000,
    data_workers=2,
    cpus_per_data_worker=1.0,
    steps_per_epoch=10_009.0,
    validation_images=6400,
    evaluates_after=lambda step: step % 500 == 0,
)


def several(count: int = 8, **values: Any) -> list[dict[str, Any]]:
    return [train(20 * (number + 1), **values) for number in range(count)]


def test_speeds_are_judged_by_enough_reports_and_enough_seconds_and_not_by_the_first() -> None:
    """Reports of 3.5 s: five are enough by both; of 0.5 s, twenty."""
    assert recent(several(5), 5, 10.0) is None
    assert recent(several(6), 5, 10.0) == several(6)[1:]
    quick = {"exchange": (0.1, 0.1), "compute": (0.4, 0.4)}
    assert recent(several(20, **quick), 5, 10.0) is None
    found = recent(several(30, **quick), 5, 10.0)
    assert found is not None and len(found) in (20, 21), "0.1 + 0.4, twenty times, may be a little less than 10"


def test_waiting_for_data_says_how_much_and_what_helps() -> None:
    """Column 1 waits 1.5 of 5 s: 30 %. Two workers make 70 % of what is wanted, so 0.86 more are wanted: 1."""
    found = waiting_for_data(several(data=(0.1, 1.5), exchange=(1.9, 0.5)), SETTING)
    assert found is not None
    assert found.text == (
        "data workers are the bottleneck: 30% of the step is waiting for data; give them 1 more CPU per replica "
        "(cluster.data_workers=3)"
    )
    much = waiting_for_data(several(data=(9.0, 9.0)), replace(SETTING, cpus_per_data_worker=0.5))
    assert much is not None and "give them 3 more CPUs per replica (cluster.data_workers=8)" in much.text
    assert waiting_for_data(several(data=(0.8, 0.8)), SETTING) is None, "19 %"
    assert waiting_for_data(several(data=(0.9, 0.9)), SETTING) is not None, "20 %"


def test_waiting_for_data_while_data_workers_are_idle_is_another_thing() -> None:
    """In the 20 s from the third report to the last, two workers worked for 8 of 40 s."""
    reports = [train(20 * number, data=(1.5, 1.5), decoding=1.6 * number, time=4.0 * number) for number in range(1, 9)]
    found = waiting_for_data(reports, SETTING)
    assert found is not None
    assert "though data workers work only 20% of the time: look at what holds them up" in found.text
    busy = [
        {**report, "feeds": [{**report["feeds"][0], "seconds_decoding": 8.0 * n}]} for n, report in enumerate(reports)
    ]
    found = waiting_for_data(busy, SETTING)
    assert found is not None and "data workers are the bottleneck" in found.text


def test_replicas_have_data_workers_of_their_own() -> None:
    """Replica 1 waits; its feed is the second."""
    mesh = Mesh(replicas=2, processes_per_replica=2, columns_per_process=1, device="cpu")
    reports = several(data=(0.0, 0.0, 2.0, 2.0), exchange=(0.5,) * 4, compute=(3.0,) * 4)
    for number, report in enumerate(reports):
        feed = report["feeds"][0]
        report["feeds"] = [{**feed, "seconds_decoding": 100.0 * number}, {**feed, "seconds_decoding": 0.1 * number}]
    found = waiting_for_data(reports, replace(SETTING, mesh=mesh))
    assert found is not None and "though data workers work only 1% of the time" in found.text


def test_loss_at_chance_says_for_how_long() -> None:
    """ln(1000) = 6.9078; half an epoch would be 5,005 steps, and 5,000 are enough."""
    before = [train(20, loss=7.2)]
    reports = before + [train(step, loss=6.9) for step in range(40, 5040, 20)]
    assert loss_at_chance(reports, SETTING) is None
    reports += [train(5040, loss=6.91)]
    found = loss_at_chance(reports, SETTING)
    assert found is not None
    assert found.text.startswith("the loss has stood at ln(classes) = 6.91 for 5,000 steps")
    assert "learning rate (0.01 now; schedule)" in found.text and "labels" in found.text
    frozen = loss_at_chance([*reports, train(5060, loss=6.91, rate=0.0)], SETTING)
    assert frozen is not None and frozen.text.endswith("the learning rate is 0 (schedule)")
    assert loss_at_chance([*reports, train(5060, loss=6.8)], SETTING) is None
    assert loss_at_chance([*reports, train(5060, loss=math.nan)], SETTING) is None


@pytest.mark.parametrize(("per_epoch", "steps"), [(78.0, 1000), (4000.0, 2000), (10_009.0, 5000)])
def test_a_network_has_half_an_epoch_to_leave_chance_within_limits(per_epoch: float, steps: int) -> None:
    assert steps_at_chance(replace(SETTING, steps_per_epoch=per_epoch)) == steps


def test_slower_column_is_named_with_by_how_much() -> None:
    found = slower_column(several(12, compute=(2.5, 2.8), exchange=(0.8, 0.5)), SETTING)
    assert found is not None
    assert found.text.startswith("column 1 is slower than column 0 by 12%, and the others wait for it")
    other = slower_column(several(12, compute=(4.0, 2.0)), SETTING)
    assert other is not None and other.text.startswith("column 0 is slower than column 1 by 100%")
    assert slower_column(several(12, compute=(2.5, 2.7)), SETTING) is None, "8 % is noise"


def test_a_column_that_is_now_and_then_slower_is_not_slow() -> None:
    reports = several(15, compute=(2.0, 2.5))
    assert slower_column(reports, SETTING) is not None
    reports[-3] = train(reports[-3]["step"], compute=(2.1, 2.0))
    assert slower_column(reports, SETTING) is None


def test_one_process_with_all_columns_has_no_slower_one() -> None:
    mesh = Mesh(replicas=1, processes_per_replica=1, columns_per_process=2, device="cuda")
    alone: dict[str, Any] = {"data": (0.0,), "exchange": (0.0,), "compute": (3.0,)}
    assert slower_column(several(12, **alone), replace(SETTING, mesh=mesh)) is None


def test_no_progress_is_said_after_a_minute_and_later_where_reports_are_rare() -> None:
    reports = [train(step, time=step / 10) for step in (20, 40, 60)]  # every 2 s
    assert no_progress(reports, SETTING, now=6.0 + 59.0) is None
    found = no_progress(reports, SETTING, now=6.0 + 61.0)
    assert found is not None
    assert found.text.startswith("no progress for 1:01, after step 60; a report comes every 0:02 or so")
    rare = [train(step, time=step * 5.0) for step in (20, 40, 60)]  # every 100 s
    assert no_progress(rare, SETTING, now=300.0 + 299.0) is None
    assert no_progress(rare, SETTING, now=300.0 + 301.0) is not None


def test_an_evaluation_is_given_its_time() -> None:
    """6,400 images at 1,280 in 35 s take 175 s, and three times that may pass."""
    slow: dict[str, Any] = {"exchange": (5.0, 5.0), "compute": (30.0, 30.0)}
    reports = [train(step, time=float(step), **slow) for step in (460, 480, 500)]
    assert usual_seconds(reports, SETTING) == pytest.approx(6400 * 35 / 1280)
    assert no_progress(reports, SETTING, now=500.0 + 520.0) is None
    assert no_progress(reports, SETTING, now=500.0 + 530.0) is not None
    # After another step, no evaluation is due.
    assert usual_seconds([train(step, time=float(step), **slow) for step in (440, 460, 480)], SETTING) == 20.0


def test_before_the_first_step_nothing_is_expected() -> None:
    assert no_progress([], SETTING, now=1e6) is None
    assert no_progress([saved(0, time=0.0)], SETTING, now=1e6) is None


def test_a_healthy_run_is_left_alone() -> None:
    """Noise of 5 %, an evaluation and a checkpoint now and then, a loss that leaves ln(classes) after 3,000 steps."""
    noise = random.Random(1)
    reports: list[dict[str, Any]] = []
    losses: list[dict[str, Any]] = []
    for step in range(20, 12_000, 20):
        compute = (3.0 * noise.gauss(1, 0.05), 3.0 * noise.gauss(1, 0.05))
        wait = (max(compute) - compute[0] + 0.4, max(compute) - compute[1] + 0.4)
        loss = 6.91 if step < 3000 else 6.91 * 0.9998 ** (step - 3000)
        report = train(step, loss=loss, compute=compute, exchange=wait, data=(abs(noise.gauss(0, 0.1)), 0.0))
        reports.append(report)
        losses.append(report)
        for verdict in (waiting_for_data, slower_column, loss_at_chance):
            assert verdict(reports[-100:] if verdict is not loss_at_chance else losses, SETTING) is None, step
        if step % 500 == 0:
            assert no_progress([*reports[-20:], evaluation(step)], SETTING, now=step / 5 + 50.0) is None
