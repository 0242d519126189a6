"""What a run prints where there is no terminal: plain lines that can be read later."""

from types import SimpleNamespace
from typing import Any

import pytest

from cluster import console
from cluster.console import RunConsole, clock, errors_table, print_plan, progress

TRAIN = {
    "kind": "train", "step": 1200, "epoch": 1.5, "images": 1280, "loss": 2.34567, "top1_error": 0.5, "top5_error": 0.25,
    "images_per_second": 1234.5, "data_wait": 0.125, "exchange_wait": 0.4, "weights_rate": 0.01, "biases_rate": 0.02,
    "seconds": 10.0,
}  # fmt: skip
EVALUATION = {
    "kind": "evaluation", "step": 1200, "epoch": 1.5, "images": 50_000, "loss": 1.5, "top1_error": 0.4066,
    "top5_error": 0.1821, "seconds": 11.0,
}  # fmt: skip


def test_train_line(capsys: pytest.CaptureFixture[str]) -> None:
    with RunConsole(10_000) as run:
        run.report(TRAIN)
    assert capsys.readouterr().out == (
        "step 1,200/10,000  epoch 1.50  loss 2.346  top-1 error 50.0%  top-5 error 25.0%  "
        "1,234 images/s  data wait 12%  exchange 40%  rate 0.01  ETA ?\n"
    )
    assert run.last_train == TRAIN


def test_eta_counts_from_the_first_report_of_this_start(capsys: pytest.CaptureFixture[str]) -> None:
    """Not from step 0: a run that was continued would otherwise be thought to be much faster than it is."""
    with RunConsole(2000) as run:
        run.report({**TRAIN, "step": 1000, "seconds": 100.0})
        run.report({**TRAIN, "step": 1100, "seconds": 150.0})
    # 100 steps took 50 s, and 900 are left.
    assert capsys.readouterr().out.splitlines()[1].endswith("ETA 7:30")


def test_evaluation_and_checkpoint_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with RunConsole(10) as run:
        run.report(EVALUATION)
        run.report(
            {"kind": "checkpoint", "step": 1200, "folder": "runs/[demo]/checkpoints/step-00001200", "seconds": 12.0}
        )
        run.message("column r0 c0: pid 12 on [::1]")
    assert capsys.readouterr().out.splitlines() == [
        "evaluation after step 1,200 (epoch 1.50): loss 1.500  top-1 error 40.7%  top-5 error 18.2% on 50,000 validation images",
        "saved runs/[demo]/checkpoints/step-00001200",
        "column r0 c0: pid 12 on [::1]",
    ]
    assert run.last_train is None


def test_long_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    with RunConsole(10) as run:
        run.message("word " * 100)
    assert capsys.readouterr().out.count("\n") == 1


def test_errors_table(capsys: pytest.CaptureFixture[str]) -> None:
    errors_table([("validation, centre view", EVALUATION), ("training", {**TRAIN, "loss": 12.0})])
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in printed.splitlines()]
    assert ["images", "number", "loss", "top-1 error", "top-5 error"] in rows
    assert ["validation, centre view", "50,000", "1.5000", "40.66%", "18.21%"] in rows
    assert ["training", "1,280", "12.0000", "50.00%", "25.00%"] in rows


def test_plan_lines_stand_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan([("mesh", "1 x 2"), ("", "column 0"), ("object store", "much")])
    assert capsys.readouterr().out == "mesh         1 x 2\n             column 0\nobject store much\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"), (9.6, "0:10"), (59.5, "1:00"), (60, "1:00"), (123, "2:03"), (3599.6, "1:00:00"), (3723, "1:02:03"),
        (360_000, "100:00:00"), (-3, "0:00"),
    ],
)  # fmt: skip
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The console's clock, to be moved by hand."""
    moment = [100.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: moment[0]))
    return moment


def test_short_jobs_say_nothing_in_a_pipe(now: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("drawing", unit="pictures") as show:
        for done in range(0, 101, 10):
            now[0] += 0.1
            show(done, 100)
    printed: Any = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_long_jobs_print_a_line_every_five_seconds_and_one_at_the_end(
    now: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("checksums", scale=1e6, unit="MB") as show:
        for done in range(1, 13):
            now[0] += 1.0
            show(done * 10**8, 12 * 10**8)
    assert capsys.readouterr().err.splitlines() == [
        "checksums: 500 of 1,200 MB, 100/s, ETA 0:07",
        "checksums: 1,000 of 1,200 MB, 100/s, ETA 0:02",
        "checksums: 1,200 of 1,200 MB, 100/s, ETA 0:00",
    ]


def test_nothing_done_yet_has_no_end_in_sight(now: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("preparing", unit="images") as show:
        now[0] += 6.0
        show(0, 100)
    assert capsys.readouterr().err == "preparing: 0 of 100 images, 0/s, ETA ?\n"


def test_quiet_leaves_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with RunConsole(10_000, quiet=True) as run:
        run.message("column r0 c0: pid 12")
        run.report(TRAIN)
        run.report(EVALUATION)
        run.report({"kind": "warning", "step": 0, "text": "runs unfused"})
        run.note("data worker r0 #0 died")
    assert capsys.readouterr().out == "note: runs unfused\ndata worker r0 #0 died\n"
    assert run.last_train == TRAIN


PARTS = [
    "step 1,200/10,000", "epoch 1.50", "loss 2.346", "top-1 error 50.0%", "top-5 error 25.0%", "1,234 images/s",
    "data wait 12%", "exchange 40%", "rate 0.01", "ETA 7:30",
]  # fmt: skip


@pytest.mark.parametrize(
    ("width", "left"),
    [
        (150, "  ".join(PARTS)),
        (105, "step 1,200/10,000  epoch 1.50  loss 2.346  top-1 error 50.0%  1,234 images/s  data wait 12%  ETA 7:30"),
        (80, "step 1,200/10,000  loss 2.346  top-1 error 50.0%  1,234 images/s  ETA 7:30"),
        (30, "loss 2.346  1,234 images/s"),
        (5, "loss 2.346  1,234 images/s"),
    ],
)  # fmt: skip
def test_narrow_terminals_get_what_matters_most(width: int, left: str) -> None:
    assert console.fitting(PARTS, width) == left
