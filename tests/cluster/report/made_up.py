"""Runs that never were: folders with a config and a log, for what reads nothing else."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.report.records import RunRecord, read_records
from configs.loader import load, save
from tests.cluster import reports
from workers.reports import Report


def make_run(
    folder: Path,
    name: str,
    *settings: str,
    config: str = "tiny_imagenet.yaml",
    top1: float | None = 0.4,
    errors: Sequence[float] = (0.9, 0.5, 0.2),
    evaluations: Iterable[dict[str, Any]] = (),
) -> Path:
    """errors: in training, one per epoch of 100 steps. top1: on the validation set, at the end; None if it was not tested."""
    path = folder / name
    path.mkdir(parents=True)
    save(load(config, [f"name={name}", *settings]), path / "config.yaml")
    last = 100 * len(errors)
    log: list[Report] = [reports.start(time=1000.0)]
    for number, error in enumerate(errors, 1):
        for step in range(100 * number - 80, 100 * number + 1, 20):
            log.append(replace(reports.train(step, time=1000.0 + step), top1_error=error))
    if top1 is not None:
        log.append(replace(reports.evaluation(last, time=1000.0 + last), top1_error=top1, top5_error=top1 / 2))
    log.append(reports.end("finished", last, time=1001.0 + last))
    (path / "log.jsonl").write_text(reports.lines(log))
    (path / "result.json").write_text(json.dumps({"step": last}))
    kept = "".join(json.dumps(one) + "\n" for one in evaluations)
    (path / "evaluations.jsonl").write_text(kept)
    return path


def ten_views(top1: float, *, step: int = 300, images: int = 1000) -> dict[str, Any]:
    errors = {"images": images, "loss": 1.0, "top1_error": top1, "top5_error": top1 / 2}
    return {"checkpoint": f"runs/a/checkpoints/step-{step:08d}-a1", "step": step, "views": 10, "data": "d", **errors}


def records(*paths: Path) -> list[RunRecord]:
    return read_records(paths)


IMAGES = 50_000


def imagenet(folder: Path, name: str, evaluations: Sequence[dict[str, Any]]) -> RunRecord:
    """A run on as many validation images as ILSVRC's."""
    path = make_run(folder, name, config="original.yaml", evaluations=evaluations)
    log = (path / "log.jsonl").read_text().replace('"images": 1000', f'"images": {IMAGES}')
    (path / "log.jsonl").write_text(log)
    return records(path)[0]
