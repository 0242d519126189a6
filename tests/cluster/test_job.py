"""A training as a Ray job, submitted and stopped as docs/cluster.md says."""

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster.runs import PROJECT, SMALL, Run, free_port, running_cluster


def test_a_submitted_job_trains_and_is_stopped_with_a_checkpoint(undisturbed: Run, folder: Path) -> None:
    port, run = free_port(), folder / "runs" / "job"
    with running_cluster(folder, cpus=4, dashboard_port=port):

        def job(what: str, *more: str) -> str:
            ray = str(Path(sys.executable).with_name("ray"))
            command = [ray, "job", what, "--address", f"http://127.0.0.1:{port}", *more]
            return subprocess.check_output(command, cwd=PROJECT, stderr=subprocess.STDOUT, text=True, timeout=180)

        settings = f"name=job data.path={folder / 'data' / 'small'} runs_folder={folder / 'runs'} train.steps=100000"
        train = ["python", "-m", "cluster.train", str(SMALL.relative_to(PROJECT)), "--address", "auto"]
        job("submit", "--no-wait", "--submission-id", "it", "--working-dir", ".", "--", *train, *settings.split())
        end = time.monotonic() + 120
        while not (run / "log.jsonl").exists() or '"train"' not in (run / "log.jsonl").read_text():
            assert time.monotonic() < end, job("logs", "it")
            time.sleep(0.2)
        job("stop", "it")
        logs = job("logs", "it")
        assert "was stopped" in job("status", "it") and "Traceback" not in logs
    # It was asked, stopped at a step, and saved that one.
    [newest] = sorted((run / "checkpoints").glob("step-*"))[-1:]
    step = json.loads((newest / "state.json").read_text())["step"]
    assert f"stopped after step {step}; the last checkpoint is {newest}" in logs
