"""Hears a run's reports and says what is wrong with it: which verdicts are new, which have grown, which are over."""

from collections import deque
from dataclasses import replace

from cluster.verdicts import (
    MOST_STEPS_AT_CHANCE,
    Setting,
    Verdict,
    loss_at_chance,
    no_progress,
    slower_column,
    steps_at_chance,
    waiting_for_data,
)
from workers.reports import NO_TIMES, AttemptReport, Report, RestartReport, StartReport, TrainReport

ABSENT_REPORTS = 5
"""A verdict is over when this many training reports in a row were without it."""
SPEED_REPORTS = 200
"""The newest training reports that are looked at for speeds."""
LOSS_REPORTS = 4 * MOST_STEPS_AT_CHANCE


class Watch:
    """Keeps the reports of the attempt at hand that judgements need, and what has been said.

    `hear` and `look` return the lines to be said now; in a healthy run there are none.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._train: deque[TrainReport] = deque(maxlen=SPEED_REPORTS)
        self._losses: deque[TrainReport] = deque(maxlen=LOSS_REPORTS)
        self._all: deque[Report] = deque(maxlen=50)
        self._said: dict[str, Verdict] = {}
        self._absent: dict[str, int] = {}

    def hear(self, report: Report) -> list[str]:
        """Call with each report, in order."""
        lines = self._settle("progress", None, patience=1)
        if isinstance(report, StartReport | RestartReport | AttemptReport):
            self._train.clear()
            self._losses.clear()
            self._all.clear()
            # Too few reports to say it again do not mean that it is over.
            self._said.clear()
            self._absent.clear()
        self._all.append(report)
        if not isinstance(report, TrainReport):
            return lines
        self._train.append(report)
        # Its lists would be most of what is kept.
        self._losses.append(replace(report, by_rank=NO_TIMES, feeds=None))
        # What is older is not needed: it is said again when its steps have doubled.
        while report.step - self._losses[0].step > 4 * steps_at_chance(self._setting):
            self._losses.popleft()
        window = list(self._train)
        for key, verdict in (
            ("data", waiting_for_data(window, self._setting, said="data" in self._said)),
            ("column", slower_column(window, self._setting, said="column" in self._said)),
            ("chance", loss_at_chance(self._losses, self._setting)),
        ):
            lines += self._settle(key, verdict, patience=ABSENT_REPORTS)
        return lines

    def look(self, now: float) -> list[str]:
        """Call every few seconds. now: seconds since 1970."""
        verdict = no_progress(list(self._all), self._setting, now)
        # What is over is said with the report that ends it.
        return self._settle("progress", verdict, patience=1) if verdict else []

    def _settle(self, key: str, verdict: Verdict | None, *, patience: int) -> list[str]:
        said = self._said.get(key)
        if verdict is not None:
            self._absent[key] = 0
            if said is not None and verdict.grade < said.grade + 1:
                return []
            self._said[key] = verdict
            return [verdict.text]
        self._absent[key] = self._absent.get(key, 0) + 1
        if said is None or self._absent[key] < patience:
            return []
        del self._said[key]
        return [said.over]
