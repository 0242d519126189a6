"""What has become of a run, from folders as real runs leave them, and the command that lists them."""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.run_state import read_run, that_count
from cluster.runs import main
from configs.errors import UserError
from tests.cluster.reports import attempt, end, evaluation, lines, restart, saved, start, train
from workers.reports import Ended, Report, VerdictReport


def make(root: Path, name: str, *reports: Report, torn: str = "", **started: Any) -> Path:
    """A run's folder. started: what differs in the entry of its start from a process of this machine that is gone."""
    path = root / name
    (path / "checkpoints" / "step-00000020").mkdir(parents=True)
    (path / "checkpoints" / "step-00000020" / "state.json").write_text("{}")
    (path / "config.yaml").write_text("data: {path: data/demo}\n")
    (path / "log.jsonl").write_text(lines(reports) + torn)
    entry = {
        "started": "2026-01-02T03:04:05+0000", "command": ["python", "-m", "cluster.train"], "host": socket.gethostname(),
        "pid": 1, "process_started": 5.0, "commit": None,
        "columns": [{"name": "column r0 c0", "pid": 2, "node": "10.0.0.7", "device": "1 CPU thread(s)"}],
    }  # fmt: skip
    (path / "environment.json").write_text(json.dumps({"starts": [{**entry, **started}]}))
    return path


ALIVE: dict[str, Any] = {"pid": os.getpid(), "process_started": psutil.Process().create_time()}
ELSEWHERE: dict[str, Any] = {"host": "another-machine"}
GONE = f"process PID on {socket.gethostname()} is gone without a word: killed, or the machine went down"
ENDS: list[tuple[Ended, str, str]] = [
    ("finished", "", "complete"),
    ("stopped", "", "stopped"),
    ("failed", "column r0 c1 died", "failed"),
]


@pytest.mark.parametrize(
    ("started", "reports", "state", "why"),
    [
        (ALIVE, [start(), train(20)], "running", ""),
        (ALIVE, [start()], "running", "starting"),
        (ALIVE, [start(), train(20), end("stopped", 20), start(20)], "running", ""),
        # Its number was given again, to this process.
        (ALIVE | {"process_started": 5.0}, [start(), train(20)], "failed", GONE),
        ({}, [start(), train(20), train(40)], "failed", GONE),
        ({}, [start(), train(20), end("finished", 20), start(20), train(40)], "failed", GONE),
        *(
            (where, [start(), train(20), saved(20), end(ended, 20, why)], state, why)
            for ended, why, state in ENDS
            for where in ({}, ELSEWHERE)
        ),
    ],
)
def test_state(tmp_path: Path, started: dict[str, Any], reports: list[Report], state: str, why: str) -> None:
    """By its process, else by how the log of its last start ends; one that was killed left half a line."""
    torn = '{"kind": "train", "st' if why == GONE else ""
    run = read_run(make(tmp_path, "a", *reports, torn=torn, **started))
    assert (run.state, run.step) == (state, max(report.step for report in reports))
    assert run.why == why.replace("PID", str(run.start["pid"]))


@pytest.mark.parametrize(("gap", "silence"), [(10, 600), (1000, 5000)])
def test_a_run_elsewhere_is_running_while_its_log_grows(tmp_path: Path, gap: int, silence: int) -> None:
    """Where reports come every 1,000 s, ten minutes of silence say nothing."""
    path = make(tmp_path, "a", start(), train(20, time=gap), train(40, time=2 * gap), **ELSEWHERE)
    os.utime(path / "log.jsonl", (5000, 5000))
    run = read_run(path, now=5000.0 + silence - 10)
    assert (run.state, run.why) == ("running", "by its log; its process is on another-machine")
    run = read_run(path, now=5000.0 + silence + 10)
    assert run.state == "failed" and "has not grown for long" in run.why


def test_a_run_of_an_older_version_is_complete_by_its_result(tmp_path: Path) -> None:
    path = make(tmp_path, "a", train(20), evaluation(20))
    (path / "environment.json").unlink()
    assert read_run(path).state == "failed"
    for step, state in ((20, "complete"), (10, "failed")):  # and then it was made longer, and killed
        (path / "result.json").write_text(f'{{"step": {step}}}')
        assert read_run(path).state == state


def test_what_counts_is_what_the_attempt_reported_that_went_on() -> None:
    """The second one began at step 40, reports every 20 steps instead of every 10, and tells what the first had not told."""
    first = [*(train(step, loss=1.0) for step in (10, 20, 30)), evaluation(30), train(50, loss=1.0)]
    late, again = train(40, loss=1.0), evaluation(40, time=99.0)
    second = [train(60, loss=2.0), train(80, loss=2.0)]
    reports = [start(), *first, start(40), late, evaluation(40), attempt(40), again, *second, end("finished", 80)]
    trained, tested = that_count(reports)
    assert (trained, tested) == ([*first[:3], late, *second], [first[3], again])


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it raises ImportError
    make(tmp_path, "done", start(), train(980), evaluation(1000), end("finished", 1000))
    make(tmp_path, "going", start(), train(20, loss=2.345), **ALIVE)
    (tmp_path / "no run").mkdir()
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    where = f"{socket.gethostname()} (10.0.0.7)"
    assert [[*row[:6], row[7]] for row in rows] == [
        ["done", "complete", "1,000 of 1,000", "1.000", "40.0%", "366", where],
        ["going", "running", "20 of 1,000", "2.345", "50.0% (train)", "366", where],
    ]
    assert main(["--json", str(tmp_path)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [(run["state"], run["step"], Path(run["path"]).name) for run in found]
    assert told == [("complete", 1000, "done"), ("running", 20, "going")]


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    said = VerdictReport(step=20, text="data workers are the bottleneck", time=5.0)
    make(tmp_path / "runs", "a", start(), train(20), said, restart(20, 6.0), train(40), end("stopped", 40, time=100.0))
    assert main(["show", "a"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "state        stopped",
        "step         40 of 1,000",
        "speed        64 images/s in training steps",
        "time         1:40: computing 60%, waiting for other columns 10%, waiting for data 5%, evaluations 5%, "
        "starting and all else 20%",
        "said         after step 20: data workers are the bottleneck",
        "said         after step 20: restarted: died",
        f"checkpoint   {Path('runs/a/checkpoints/step-00000020').resolve()}",
        "go on        the same command goes on from the last checkpoint",
    ):
        assert line in printed.splitlines(), printed
    assert main(["show", "--json", "runs/a"]) == 0
    assert json.loads(capsys.readouterr().out)["config"] == {"data": {"path": "data/demo"}}


def test_show_says_when_a_running_run_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It began at step 500, made 100 steps in 50 s, and has 400 to go."""
    path = make(tmp_path, "a", start(500, time=10.0), train(600, time=60.0), **ALIVE)
    assert main(["show", str(path)]) == 0
    assert "ETA          3:20, at " in capsys.readouterr().out


def test_wrong_arguments_and_unknown_runs_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["show"], ["a", "b"], ["show", "a", "b"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert "give one folder, or `show` and one run" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out
    for wrong, told in (
        (["show", "nobody"], "there is no run nobody here, nor in runs/"),
        ([str(tmp_path / "nowhere")], f"there is no folder {tmp_path / 'nowhere'}"),
    ):
        assert main(wrong) == 2
        assert f"error: {told}" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        read_run(tmp_path)
