"""Which evaluations are a run's errors: of its own data set and settings, of its end, and in tables of what they are of."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.report import ablations, tables
from cluster.report.groups import group_runs
from cluster.report.records import RunRecord
from cluster.report.sections import ablations_section
from cluster.settings import overrides
from configs.loader import load
from tests.cluster.report.made_up import IMAGES, imagenet, make_run, records, ten_views
from tests.data.made_up import many_rows
from workers.data.facts import DataFacts
from workers.data.manifest import Manifest


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


def test_places_and_speeds_are_no_other_settings() -> None:
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
