"""Watches a worker group to its end: passes on what it reports, and notices when an actor dies."""

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError

from cluster.failures import RunFailed, explain, root_cause
from cluster.group import WorkerGroup
from cluster.signals import Interrupted, StopSignals
from configs.errors import UserError

POLL_SECONDS = 0.25
"""How often it is looked whether a stop was asked for. A death is noticed at once."""
STATUS_SECONDS = 1.0
"""How often actors are asked for reports and messages; each answer costs milliseconds of a CPU at both ends."""
COMPANION_SECONDS = 2.0
"""After the first failure, how long to wait for the others': a column's death makes its neighbours fail, maybe before it does."""
STOP_SECONDS = 60.0
"""How long the ranks may take to agree on a stop and to save."""
STARTING_SECONDS = 5.0
"""The same as long as nothing has been reported: the first step may be compiling for half a minute, with little to save."""


class Supervisor:
    """on_report: called with each report of rank 0. on_message: with each line that people should read once."""

    def __init__(
        self,
        group: WorkerGroup,
        signals: StopSignals,
        on_report: Callable[[dict[str, Any]], None],
        on_message: Callable[[str], None],
    ) -> None:
        self._group, self._signals = group, signals
        self._on_report, self._on_message = on_report, on_message
        self._reports_seen = 0
        self._messages_seen = [0] * len(group.feeds)
        self.feed_counts: list[dict[str, Any]] = [{} for _ in group.feeds]

    def watch(self, running: list[Any]) -> list[dict[str, Any]]:
        """Wait for the references of all ranks; returns their results.

        Raises RunFailed, or UserError, with the cause as soon as a rank fails; Interrupted after a second stop signal.
        """
        waiting, stop_by, asked_at = list(running), None, 0.0
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=POLL_SECONDS)
            for reference in done:
                self._check(reference, running)
            if self._signals.requested is not None and stop_by is None:
                self._group.stop()
                patience = STOP_SECONDS if self._reports_seen else STARTING_SECONDS
                stop_by = time.monotonic() + patience
            if stop_by is not None and time.monotonic() > stop_by:
                self._on_message(
                    f"the columns did not stop within {patience:g} s; ending them. The last checkpoint is whole"
                )
                raise Interrupted(self._signals.requested or 0)
            if time.monotonic() - asked_at > STATUS_SECONDS:
                self._poll()
                asked_at = time.monotonic()
        self._poll(wait_seconds=5.0)
        results: list[dict[str, Any]] = ray.get(running)
        return results

    def _check(self, reference: Any, running: list[Any]) -> None:
        """Raise the cause if this rank failed; among several failures, the death of an actor is the cause."""
        if _failure(reference) is None:
            return
        ray.wait(running, num_returns=len(running), timeout=COMPANION_SECONDS)
        ready, _ = ray.wait(running, num_returns=len(running), timeout=0)
        failures = [(running.index(r), error) for r in ready if (error := _failure(r)) is not None]
        self._poll()
        told = [item for item in failures if isinstance(root_cause(item[1]), UserError | FloatingPointError | OSError)]
        died = [item for item in failures if isinstance(item[1], RayActorError)]
        rank, error = (died or told or failures)[0]
        about = self._group.about[rank]
        who = f"{about['name']} (pid {about['pid']} on {about['node']})"
        if died:
            raise RunFailed(f"{who} died: {_how(error)}")
        if isinstance(root_cause(error), UserError):
            raise UserError(explain(error))
        raise RunFailed(f"{who} failed: {explain(error)}")

    def _poll(self, wait_seconds: float = 1.0) -> None:
        """Fetch new reports and messages; an actor that does not answer now is asked again next time."""
        columns, feeds = self._group.columns, self._group.feeds
        asked = [columns[0].status.remote(self._reports_seen)]
        asked += [feed.status.remote(seen) for feed, seen in zip(feeds, self._messages_seen, strict=True)]
        ready, _ = ray.wait(asked, num_returns=len(asked), timeout=wait_seconds)
        for reference in ready:
            if _failure(reference) is not None:
                continue
            answer, which = ray.get(reference), asked.index(reference)
            if which == 0:
                self._reports_seen += len(answer)
                for report in answer:
                    self._on_report(report)
            else:
                messages, self.feed_counts[which - 1] = answer
                self._messages_seen[which - 1] += len(messages)
                for message in messages:
                    self._on_message(message)


def _failure(reference: Any) -> Exception | None:
    """What a finished call raised, or None."""
    try:
        ray.get(reference, timeout=0)
    except Exception as error:  # whatever the actor raised is what this function returns
        return error
    return None


def _how(error: BaseException) -> str:
    text = " ".join(str(error).split())
    for sign, words in (
        ("SIGKILL", "its process was killed (kill -9, or by the system for want of memory)"),
        ("connection error code 2", "its process was killed (kill -9, or by the system for want of memory)"),
        ("node", "its node died"),
    ):
        if sign in text:
            return words
    return explain(error)
