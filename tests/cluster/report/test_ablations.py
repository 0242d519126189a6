"""Runs read from their folders, put into groups, and compared: by numbers worked out by hand; and which errors are a run's."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.paper import CHANGES
from cluster.report import ablations, curves, spending, tables
from cluster.report.groups import Group, group_runs
from cluster.report.records import RunRecord
from cluster.report.sections import ablations_section, goal_table, paper_section
from cluster.reproduce.search import epochs_to, smoothed
from cluster.settings import overrides
from configs.errors import UserError
from configs.loader import load
from tests.cluster import reports
from tests.cluster.report.made_up import IMAGES, imagenet, make_run, records, ten_views
from tests.data.made_up import many_rows
from workers.data.facts import DataFacts
from workers.data.manifest import Manifest

NO_NORMS = ("network.convs.conv1.then=[pool,activation]", "network.convs.conv2.then=[activation,pool]")


def grouped(*paths: Path) -> list[Group]:
    return group_runs(records(*paths))


def test_seeds_of_a_configuration_are_one_line_with_mean_and_spread(tmp_path: Path) -> None:
    paths = [make_run(tmp_path, f"base-{seed}", f"train.seed={seed}", top1=0.40 + 0.01 * seed) for seed in range(3)]
    for seed in range(2):
        settings = (f"train.seed={seed}", "train.batch_size=64")
        paths.append(make_run(tmp_path, f"wide-{seed}", *settings, top1=0.44 + 0.02 * seed))
    groups = grouped(*paths)
    assert [(group.label, len(group.runs)) for group in groups] == [("base", 3), ("wide", 2)]
    first, second = ablations.rows(groups, 1)
    assert first.errors is not None and second.errors is not None
    assert first.errors.top1 == pytest.approx(0.41) and first.errors.top1_spread == pytest.approx(0.01)
    assert first.top1_change is None
    assert second.top1_change == pytest.approx(0.04)
    # sqrt(0.01² / 3 + 0.000200 / 2), the spread of 0.44 and 0.46 being 0.01414
    assert second.top1_doubt == pytest.approx((0.0001 / 3 + 0.0002 / 2) ** 0.5)
    [difference] = second.group.differences
    assert (difference.path, difference.before, difference.after) == ("train.batch_size", 128, 64)
    shown = ablations_section(groups)
    for words in ("41.0\u00a0±\u00a01.0\u00a0%", "+4.0\u00a0±\u00a01.2", "train.batch_size"):
        assert words in shown


def test_where_and_how_fast_a_run_went_makes_no_other_configuration(tmp_path: Path) -> None:
    """Without their data set's fingerprint, runs are taken for what their paths say."""
    faster = ("cluster.data_workers=3", "compute.fused=false")
    one, same = make_run(tmp_path, "a"), make_run(tmp_path, "c", *faster, "train.profile_steps=[5,8]")
    other = make_run(tmp_path, "b", *faster, "data.path=elsewhere", "checkpoint.keep=4")
    assert len(grouped(one, same)) == 1 and len(grouped(one, other)) == 2


def test_the_same_change_to_a_smaller_network_has_the_papers_number(tmp_path: Path) -> None:
    paddings = ("network.convs.conv2.padding=1", "network.convs.conv5.padding=0")
    changes: dict[str, tuple[str | None, tuple[str, ...]]] = {
        "no-norms": ("no_normalisation", NO_NORMS),
        "no-noise": ("no_colour_noise", ("augment.colour_noise=null",)),
        "pools": ("non_overlapping_pooling", ("network.pool.size=2", *paddings)),
        # These sides need no other paddings.
        "pools-alone": ("non_overlapping_pooling", ("network.pool.size=2", "network.pool.stride=2")),
        "faster": (None, ("schedule.stages.0.weights=0.02",)),
        "other-norms": (None, (NO_NORMS[0], "network.lrn.size=3")),
    }
    paths = [make_run(tmp_path, "base", top1=0.5)]
    for name, (_, settings) in changes.items():
        paths.append(make_run(tmp_path, name, *settings, top1=None if name == "faster" else 0.52))
    groups = grouped(*paths)
    found = {row.group.label: row for row in ablations.rows(groups, 1)}
    for name, (paper, _) in changes.items():
        assert found[name].paper == (CHANGES[paper] if paper else None), name
    assert found["faster"].errors is None
    assert found["no-norms"].top1_change == pytest.approx(0.02)
    assert "+1.4 / +1.2" in ablations_section(groups)


def test_the_reverse_of_a_change_and_half_of_one_have_not_the_papers_number(tmp_path: Path) -> None:
    def papers(*paths: Path) -> list[object]:
        return [row.paper for row in ablations.rows(grouped(*paths), 1)]

    without = make_run(tmp_path, "no_normalisation", config="no_normalisation.yaml")
    full = make_run(tmp_path, "original", config="original.yaml")
    assert papers(without, full) == [None, None]
    assert papers(full, without)[1] == CHANGES["no_normalisation"]
    paths = []
    for rate in (0.4, 0.6, 0.0):
        dropout = (f"network.denses.{name}.dropout={rate}" for name in ("fc6", "fc7"))
        paths.append(make_run(tmp_path, f"d{rate}", *dropout, config="original.yaml"))
    assert papers(*paths) == [None, None, CHANGES["no_dropout"]]


def test_all_are_compared_by_ten_views_of_their_end_or_none(tmp_path: Path) -> None:
    one = make_run(tmp_path, "a", evaluations=[ten_views(0.35)])
    other = make_run(tmp_path, "b", "train.batch_size=64", evaluations=[ten_views(0.38)])
    third = make_run(tmp_path, "c", "train.batch_size=32")
    early = make_run(tmp_path, "d", "train.batch_size=16", evaluations=[ten_views(0.3, step=100)])
    groups = grouped(one, other)
    assert ablations.views_of_all(groups) == 10
    assert ablations.rows(groups, 10)[1].top1_change == pytest.approx(0.03)
    assert ablations.views_of_all(grouped(one, other, third)) == ablations.views_of_all(grouped(one, early)) == 1


def test_the_newest_errors_count_and_those_on_other_images_do_not(tmp_path: Path) -> None:
    kept = [ten_views(0.39, step=300), ten_views(0.36, step=300), ten_views(0.30, step=200), ten_views(0.1, images=77)]
    [record] = records(make_run(tmp_path, "a", evaluations=kept))
    ten, centre = record.errors(10), record.errors(1)
    assert ten is not None and ten.top1 == 0.36
    assert centre is not None and centre.top1 == 0.4


def test_steps_that_were_gone_over_again_count_once(tmp_path: Path) -> None:
    path = make_run(tmp_path, "a", errors=(0.9, 0.5))
    steps = (reports.train(step, time=1500.0 + step) for step in (120, 140, 160, 180, 200))
    again = [reports.restart(100, 1500.0), *(replace(step, top1_error=0.3) for step in steps)]
    with (path / "log.jsonl").open("a") as log:
        log.write(reports.lines(again))
        log.write('{"kind": "train", "step": 2')  # the machine went down
    [record] = records(path)
    assert [report.step for report in record.train] == list(range(20, 201, 20))
    assert [report.top1_error for report in record.train[5:]] == [0.3] * 5
    assert record.totals.images == 15 * 1280, "time that was spent twice counts twice"


def test_epochs_to_25_percent_are_read_off_the_averaged_curve(tmp_path: Path) -> None:
    quick = make_run(tmp_path, "quick", errors=[0.9, 0.6, 0.26, 0.2] + [0.1] * 10)
    slow = make_run(tmp_path, "slow", "network.activation=tanh", errors=[0.9] * 7 + [0.24] + [0.2] * 6)
    never = make_run(tmp_path, "never", "train.batch_size=64", errors=[0.9] * 14)
    found = records(quick, slow, never)
    # Means of three reports, 0.2 epochs each: 0.26 around 2.7, 0.24 around 2.9; 0.46 around 7.1, 0.24 around 7.3.
    assert [curves.reached(record) for record in found] == [
        pytest.approx(2.8),
        pytest.approx(7.1 + 0.2 * 0.21 / 0.22),
        None,
    ]
    assert curves.reached(found[0]) == epochs_to(smoothed(found[0].train), 0.25), "one rule here and in figure 1"
    shown = goal_table(found)
    assert ">2.6<" in shown and "not in 14.0" in shown


def test_averages_weigh_images_and_end_with_their_part_of_an_epoch(tmp_path: Path) -> None:
    made = [replace(reports.train(1), epoch=epoch, images=images, top1_error=error) for epoch, images, error in
            ((0.5, 100, 1.0), (1.0, 300, 0.5), (1.5, 100, 0.2), (2.2, 100, 0.1))]  # fmt: skip
    points = curves.averaged(made, "top1_error", 1.0)
    assert points == [(1.0, pytest.approx(250 / 400)), (1.5, pytest.approx(0.2)), (2.2, pytest.approx(0.1))]
    assert curves.part_of_epoch(90) == 1.0
    assert curves.part_of_epoch(8) == 0.5
    assert curves.part_of_epoch(0.01) == 0.01
    # Shares of time add up.
    [record] = records(make_run(tmp_path, "a"))
    found = spending.shares(record)
    assert sum(found.values()) == pytest.approx(1)
    # 15 reports of 3 s of computing and one of 0.5 s waiting, in 301 s from start to end.
    assert found["computing"] == pytest.approx(45 / 301)
    assert found["waiting for other columns"] == pytest.approx(7.5 / 301)


def test_tables_of_the_paper_take_runs_on_imagenet_alone(tmp_path: Path) -> None:
    one, five = ten_views(0.4066, images=IMAGES), {**ten_views(0.381, images=IMAGES), "members": ["a"] * 5}
    net = imagenet(tmp_path, "net", [one, five])
    [small] = records(make_run(tmp_path, "tiny", evaluations=[ten_views(0.6)]))
    assert tables.data_of(net) == "ILSVRC-2012" and tables.data_of(small) is None
    ours = {line.model: line.ours for line in tables.table2([small, net])}
    assert ours["1 CNN"] == (0.4066, 0.2033)
    assert ours["5 CNNs"] == (0.381, 0.1905)
    assert ours["7 CNNs*"] == (None, None) and ours["1 CNN*"] == (None, None)
    assert all(line.ours == (None, None) for line in tables.table1([small, net]))
    assert "trained on other data" in paper_section([small])
    assert "trained on other data" not in paper_section([net])


def test_names_that_are_the_same_are_told_apart_a_run_is_read_once_and_no_run_is_refused(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "x", "a"), make_run(tmp_path / "y", "a")
    assert [record.label for record in records(one, other, one)] == ["x/a", "y/a"]
    with pytest.raises(UserError, match="is not the folder of a run"):
        records(tmp_path)


def together(networks: int, top1: float, **more: Any) -> dict[str, Any]:
    return {"members": ["a"] * networks, **ten_views(top1, images=IMAGES), **more}


def ours(records: Sequence[RunRecord], model: str) -> tuple[float | None, str]:
    return next((line.ours[0], line.by) for line in tables.table2(records) if line.model == model)


def end(path: Path, ended: str) -> None:
    log = (path / "log.jsonl").read_text().replace('"ended": "finished"', f'"ended": "{ended}"')
    (path / "log.jsonl").write_text(log)


def test_other_data_and_other_settings_are_not_the_runs_own(tmp_path: Path) -> None:
    kept = [
        ten_views(0.36),
        {**ten_views(0.35), "dataset": "own", "overrides": []},
        {**ten_views(0.2), "dataset": "other", "overrides": []},
        {**ten_views(0.1), "dataset": "own", "overrides": ["network.lrn.k"]},
    ]
    [read] = records(make_run(tmp_path, "a", evaluations=kept))
    for fingerprint, expected in (("own", 0.35), (None, 0.2), ("third", 0.36)):
        found = replace(read, fingerprint=fingerprint).errors(10)
        assert found is not None and found.top1 == expected
    # Places and speeds are no other settings.
    own = load("original.yaml")
    used = load("original.yaml", ["data.path=x", "cluster.device=cpu", "compute.fused=false", "network.lrn.k=1"])
    assert overrides(own, used) == ["network.lrn.k"]


def test_errors_before_the_end_say_so_and_yield_to_those_of_the_end(tmp_path: Path) -> None:
    half = imagenet(tmp_path, "half", [ten_views(0.45, step=100, images=IMAGES)])
    whole = imagenet(tmp_path, "whole", [ten_views(0.41, step=300, images=IMAGES)])
    assert ours([half], "1 CNN") == (0.45, "half, after step 100 of 300")
    assert ours([half, whole], "1 CNN") == (0.41, "whole")
    end(half.path, "failed")
    assert ours(records(half.path), "1 CNN")[1] == "half, after step 100 of 300"
    end(whole.path, "stopped")
    assert ours(records(whole.path), "1 CNN") == (0.41, "whole, stopped")


def test_seeds_that_did_not_come_to_their_end_are_in_no_mean(tmp_path: Path) -> None:
    paths = [make_run(tmp_path, f"a-{seed}", f"train.seed={seed}", top1=0.4 + 0.02 * seed) for seed in range(3)]
    end(paths[2], "failed")
    groups = group_runs(records(*paths))
    [row] = ablations.rows(groups, 1)
    assert row.errors is not None and row.errors.runs == 2 and row.errors.top1 == pytest.approx(0.41)
    assert "In no mean, for they are not errors of a whole run: a-2 (failed)." in ablations_section(groups)


def test_ensembles_are_those_of_the_tables_rows_alone(tmp_path: Path) -> None:
    same, plain = [1.0] * 5, [False] * 5
    weighted = together(5, 0.3, weights=[2.0, 1.0, 1.0, 1.0, 1.0], pretrained=plain)
    fine_tuned = together(5, 0.29, weights=same, pretrained=[True] * 5)
    assert ours([imagenet(tmp_path, "a", [weighted, fine_tuned])], "5 CNNs") == (None, "")
    fits = together(5, 0.38, weights=same, pretrained=plain)
    assert ours([imagenet(tmp_path, "b", [fits, weighted, fine_tuned])], "5 CNNs")[0] == 0.38
    seven = {"weights": [1.0] * 7}
    none = together(7, 0.36, **seven, pretrained=[False] * 7)
    unsaid = together(7, 0.36)
    two = together(7, 0.37, **seven, pretrained=[False] * 5 + [True] * 2)
    assert ours([imagenet(tmp_path, "c", [none, unsaid])], "7 CNNs*")[0] is None
    assert ours([imagenet(tmp_path, "d", [two, none])], "7 CNNs*")[0] == 0.37


def test_the_source_is_that_of_the_data_that_were_trained_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    many_rows(data, 8)
    run = make_run(tmp_path, "a", f"data.path={data}")
    DataFacts.of(Manifest.load(data), data).keep(run)
    assert records(run)[0].source == "a test"
    shutil.rmtree(data)
    many_rows(data, 9)
    assert records(run)[0].source == ""
