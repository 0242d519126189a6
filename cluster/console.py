"""What people see while something runs: the plan, one line per report, and tables at the end."""

import contextlib
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.table import Table

from workers import reports


class RunConsole:
    """Progress of a run: one live line on a terminal, plain lines elsewhere.

    quiet: of all that, only notes and warnings. waiting: what to say until a report comes. rich: where to (default: stdout).
    """

    def __init__(
        self,
        total_steps: int,
        *,
        quiet: bool = False,
        waiting: str = "waiting for the first report",
        rich: RichConsole | None = None,
    ) -> None:
        self._total, self._quiet, self._waiting = total_steps, quiet, waiting
        self._rich = rich or RichConsole(highlight=False)
        self._status: Any = None
        self._first: tuple[int, float] | None = None
        self.last_train: reports.TrainReport | None = None

    def __enter__(self) -> "RunConsole":
        if self._rich.is_terminal and not self._quiet:
            self._status = self._rich.status(self._waiting)
            self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def restarted(self) -> None:
        """Speed and time left are those of the attempt at hand."""
        self._first = None

    def message(self, text: str) -> None:
        """Say how things go."""
        if not self._quiet:
            self.note(text)

    def note(self, text: str) -> None:
        """Say what people should know of even if they want to hear little."""
        self._rich.print(_fitted(text, self._rich), markup=False, soft_wrap=True)

    def report(self, report: reports.Report) -> None:
        match report:
            case reports.StartReport():
                self._total = report.whole_steps
            case reports.TrainReport():
                self.last_train = report
                parts = self._train_parts(report)
                if self._status is not None:
                    self._status.update(fitting(parts, self._rich.width - len("⠋ ")))
                else:
                    self.message("  ".join(parts))
            case reports.EvaluationReport():
                self.message(
                    f"evaluation after step {report.step:,} (epoch {report.epoch:.2f}): {errors_line(report)} "
                    f"on {report.images:,} validation images"
                )
            case reports.CheckpointReport() if self._status is None:
                self.message(f"saved {report.folder}")
            case reports.ProfileReport(file_bytes=int(size)):
                self.message(
                    f"trace of steps {report.first:,} to {report.last:,}: {report.file} "
                    f"({size / 1e6:.1f} MB); open it at https://ui.perfetto.dev, which keeps it on your machine"
                )
            case reports.WarningReport():
                self.note(f"note: {report.text}")

    def _train_parts(self, report: reports.TrainReport) -> list[str]:
        if self._first is None:
            self._first = (report.step, report.seconds)
        steps, seconds = report.step - self._first[0], report.seconds - self._first[1]
        eta = clock((self._total - report.step) * seconds / steps) if steps else "?"
        return [
            f"step {report.step:,}/{self._total:,}",
            f"epoch {report.epoch:.2f}",
            *errors_line(report).split("  "),
            f"{report.images_per_second:,.0f} images/s",
            f"data wait {report.data_wait:.0%}",
            f"exchange {report.exchange_wait:.0%}",
            f"rate {report.weights_rate:g}",
            f"ETA {eta}",
        ]


def _fitted(text: str, to: RichConsole, indent: int = 0) -> str:
    """On a terminal, lines that break between words; paths stay whole. What is read later is not broken at all."""
    if not to.is_terminal:
        return text
    settings: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": " " * indent}
    return "\n".join(textwrap.fill(line, to.width, **settings) for line in text.split("\n"))


LEAST_WANTED = ("rate", "top-5", "exchange", "epoch", "data wait", "top-1", "ETA", "step")
"""What a narrow terminal does without, first to last, by how it begins."""


def fitting(parts: list[str], width: int) -> str:
    """As many of a line's parts as `width` has room for, in their order."""
    for beginning in LEAST_WANTED:
        if len("  ".join(parts)) <= width:
            break
        parts = [part for part in parts if not part.startswith(beginning)]
    return "  ".join(parts)


def errors_line(report: reports.ErrorsReport) -> str:
    return f"loss {report.loss:.3f}  top-1 error {report.top1_error:.1%}  top-5 error {report.top5_error:.1%}"


def print_plan(lines: Iterable[tuple[str, str]]) -> None:
    """On a terminal, what is too long for a line goes on below its beginning."""
    terminal = RichConsole()
    for what, how_much in lines:
        print(_fitted(f"{what:<13}{how_much}", terminal, indent=13))
    sys.stdout.flush()


def print_table(table: Table, least_width: int = 0) -> None:
    """least_width: characters that it may take even where a terminal is narrower, or output is none."""
    console = RichConsole(highlight=False)
    console.width = max(console.width, least_width)
    console.print(table)


def errors_table(rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Rows of (what, errors) as a table of percentages."""
    table = Table()
    for heading in ("images", "number", "loss", "top-1 error", "top-5 error"):
        table.add_column(heading, justify="left" if heading == "images" else "right")
    for what, errors in rows:
        table.add_row(
            what,
            f"{errors['images']:,}",
            f"{errors['loss']:.4f}",
            f"{errors['top1_error']:.2%}",
            f"{errors['top5_error']:.2%}",
        )
    print_table(table)


@contextmanager
def progress(what: str, *, scale: float = 1.0, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, in all) that shows progress on stderr: a bar on a terminal, a line every 5 s elsewhere.

    scale, unit: numbers are shown divided by `scale`, followed by `unit`.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console, started = RichConsole(stderr=True), time.monotonic()
    if console.is_terminal:
        columns = (
            TextColumn(what),
            BarColumn(),
            TextColumn("{task.fields[line]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        with contextlib.ExitStack() as shown:
            bar = Progress(*columns, console=console)

            def show(done: int, total: int) -> None:
                if not bar.tasks:  # what has nothing to do leaves no empty bar behind
                    shown.enter_context(bar)
                    bar.add_task("", line="")
                rate = done / max(time.monotonic() - started, 1e-9)
                line = f"{done / scale:,.0f} of {total / scale:,.0f} {unit}, {rate / scale:,.0f}/s"
                bar.update(bar.tasks[0].id, completed=done, total=total, line=line)

            yield show
        return
    last = started

    def print_line(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < 5.0 and not (done == total and now - started > 2.0):
            return
        last = now
        rate = done / max(now - started, 1e-9)
        left = clock((total - done) / rate) if done else "?"
        text = f"{what}: {done / scale:,.0f} of {total / scale:,.0f} {unit}, {rate / scale:,.0f}/s, ETA {left}"
        print(text, file=sys.stderr, flush=True)

    yield print_line


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as in 1:02:03 or 2:03."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
