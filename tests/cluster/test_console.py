"""What a run prints where there is no terminal: plain lines that can be read later."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster import console
from cluster.console import RunConsole, clock, errors_table, progress
from workers.reports import CheckpointReport, EvaluationReport, TrainReport, WarningReport

TRAIN = TrainReport(
    step=1200, epoch=1.5, images=1280, loss=2.34567, top1_error=0.5, top5_error=0.25, images_per_second=1234.5, data_wait=0.125,
    exchange_wait=0.4, weights_rate=0.01, biases_rate=0.02, seconds=10.0,
)  # fmt: skip
EVALUATION = EvaluationReport(
    step=1200, epoch=1.5, images=50_000, loss=1.5, top1_error=0.4066, top5_error=0.1821, seconds=11.0
)


def test_train_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """An ETA counts from the first report of this start: a run that was continued is not as fast as it would be from step 0."""
    with RunConsole(10_000) as run:
        run.report(TRAIN)
        assert run.last_train == TRAIN
        # 100 steps took 50 s, and 8,700 are left.
        run.report(replace(TRAIN, step=1300, seconds=60.0))
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        "step 1,200/10,000  epoch 1.50  loss 2.346  top-1 error 50.0%  top-5 error 25.0%  "
        "1,234 images/s  data wait 12%  exchange 40%  rate 0.01  ETA ?"
    )
    assert second.endswith("ETA 1:12:30")


def test_evaluation_and_checkpoint_lines_and_long_ones_that_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    folder = "runs/[demo]/checkpoints/step-00001200"
    with RunConsole(10) as run:
        run.report(EVALUATION)
        run.report(CheckpointReport(step=1200, folder=folder, seconds=12.0))
        for message in ("column r0 c0: pid 12 on [::1]", "word " * 99 + "word"):
            run.message(message)
    assert capsys.readouterr().out.splitlines() == [
        "evaluation after step 1,200 (epoch 1.50): loss 1.500  top-1 error 40.7%  top-5 error 18.2% on 50,000 validation images",
        f"saved {folder}",
        "column r0 c0: pid 12 on [::1]",
        "word " * 99 + "word",
    ]
    assert run.last_train is None


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    errors_table([("validation, centre view", vars(EVALUATION)), ("training", {**vars(TRAIN), "loss": 12.0})])
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in printed.splitlines()]
    assert ["images", "number", "loss", "top-1 error", "top-5 error"] in rows
    assert ["validation, centre view", "50,000", "1.5000", "40.66%", "18.21%"] in rows
    assert ["training", "1,280", "12.0000", "50.00%", "25.00%"] in rows


def test_clock() -> None:
    moments = {0: "0:00", 9.6: "0:10", 59.5: "1:00", 60: "1:00", 123: "2:03", 3599.6: "1:00:00", 3723: "1:02:03"}
    moments |= {360_000: "100:00:00", -3: "0:00"}
    assert {seconds: clock(seconds) for seconds in moments} == moments


def test_progress_of_jobs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Short ones say nothing in a pipe; long ones print a line every five seconds and one at the end."""
    now = [100.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now[0]))
    ends = [f"{n} of 1,200 MB, 100/s, ETA 0:0{s}" for n, s in (("500", 7), ("1,000", 2), ("1,200", 0))]
    for steps, seconds, lines in (
        (range(0, 101, 10), 0.1, []), ([0], 6.0, ["0 of 1,200 MB, 0/s, ETA ?"]), (range(100, 1201, 100), 1.0, ends)
    ):  # fmt: skip
        with progress("preparing", scale=1e6, unit="MB") as show:
            for done in steps:
                now[0] += seconds
                show(done * 10**6, 1200 * 10**6)
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == ("", "".join(f"preparing: {line}\n" for line in lines))


def test_quiet_leaves_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with RunConsole(10_000, quiet=True) as run:
        run.message("column r0 c0: pid 12")
        run.report(TRAIN)
        run.report(EVALUATION)
        run.report(WarningReport(step=0, text="runs unfused"))
        run.note("data worker r0 #0 died")
    assert capsys.readouterr().out == "note: runs unfused\ndata worker r0 #0 died\n"
    assert run.last_train == TRAIN


PARTS = [
    "step 1,200/10,000", "epoch 1.50", "loss 2.346", "top-1 error 50.0%", "top-5 error 25.0%", "1,234 images/s",
    "data wait 12%", "exchange 40%", "rate 0.01", "ETA 7:30",
]  # fmt: skip


def test_narrow_terminals_get_what_matters_most() -> None:
    for width, left in (
        (150, "  ".join(PARTS)),
        (105, "step 1,200/10,000  epoch 1.50  loss 2.346  top-1 error 50.0%  1,234 images/s  data wait 12%  ETA 7:30"),
        (80, "step 1,200/10,000  loss 2.346  top-1 error 50.0%  1,234 images/s  ETA 7:30"),
        (30, "loss 2.346  1,234 images/s"),
        (5, "loss 2.346  1,234 images/s"),
    ):
        assert console.fitting(PARTS, width) == left
