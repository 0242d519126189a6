"""What a run prints on a terminal: lines that break between words, live lines that fit, nothing left of what is over."""

import io

import pytest
from rich.console import Console

from cluster.console import RunConsole, print_plan, progress
from tests.cluster.test_console import TRAIN

NOTE = (
    "note: data workers are the bottleneck: 31% of the step is waiting for data; give them 1 more CPU per replica "
    "(cluster.data_workers=2)"
)
LONG = "/scratch/" + "a-long-folder/" * 8 + "checkpoints"


@pytest.fixture(autouse=True)
def a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")


def terminal(width: int) -> tuple[io.StringIO, Console]:
    file = io.StringIO()
    return file, Console(file=file, force_terminal=True, width=width, color_system=None)


def test_notes_break_between_words_and_paths_nowhere() -> None:
    file, console = terminal(80)
    run = RunConsole(10, rich=console)
    run.note(NOTE)
    run.note(f"saved {LONG}")
    lines = file.getvalue().splitlines()
    assert [len(line) <= 80 for line in lines] == [True, True, True, False]
    assert " ".join(line.strip() for line in lines[:2]) == NOTE
    assert lines[-1] == LONG


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_live_line_fits_on_one_line(width: int) -> None:
    with RunConsole(10_000, rich=terminal(width)[1]) as run:
        run.report(TRAIN)
        assert run._status is not None
        text = run._status.status
    assert isinstance(text, str) and len("? " + text) <= width and "loss 2.346" in text


def test_the_plan_goes_on_below_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(
        [("memory", "about 2,475.8 MB per column worker, libraries included"), ("", "column 0: 28"), ("log", LONG)]
    )
    assert capsys.readouterr().out.splitlines() == [
        "memory       about 2,475.8 MB per column worker, libraries",
        "             included",
        "             column 0: 28",
        "log",
        f"             {LONG}",
    ]


def test_what_has_nothing_to_do_leaves_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("checking the checkpoint"):
        pass
    assert capsys.readouterr().err == ""
    with progress("checking the checkpoint", unit="MB") as show:
        show(1, 2)
        show(2, 2)
    assert "2 of 2 MB" in capsys.readouterr().err
