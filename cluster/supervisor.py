"""Watches a worker group to its end: passes on what it reports, and notices when an actor dies or nothing moves any more."""

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Literal

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError

from cluster import own_ray
from cluster.capacity import draining_nodes
from cluster.failures import explain, is_wrong_input, lost_another, root_cause
from cluster.group import WorkerGroup
from cluster.outcomes import Failure, Finished, Outcome, Stopped
from cluster.signals import Interrupted, StopSignals
from cluster.watchdog import Watchdog
from configs.errors import UserError, nature_of
from workers.column_worker import Status
from workers.reports import CheckpointReport, ColumnReport

POLL_SECONDS = 0.25
"""How often it is looked whether a stop was asked for. A death is noticed at once."""
STATUS_SECONDS = 1.0
"""How often actors are asked for reports and messages; each answer costs milliseconds of a CPU at both ends."""
COMPANION_SECONDS = 2.0
"""After the first failure, how long to wait for the others': a column's death makes its neighbours fail, maybe before it does."""
NODE_DEATH_SECONDS = 12.0
"""After columns have lost a connection, how long to wait for the news that the other one's node is dead."""
NODES_SECONDS = 5.0
"""How often it is looked whether a node will be taken away."""
STILL_SECONDS = 10.0
"""Between two looks of a process that nobody stopped, on the slowest machine."""
STARTING_SECONDS = 5.0
"""How long a stop may take in the first step, which may be compiling for half a minute, with nothing to save. Later it has as
long as a step, `fault.hang_timeout_seconds`; once the ranks save, `checkpoint.save_timeout_seconds` counts."""

ABRUPTLY = "its process was killed (kill -9, or by the system for want of memory), or crashed"
"""Ray says the same of all three."""
DEATHS = (RayActorError, NodeDiedError, OutOfMemoryError)

StopReason = Literal["signal", "drain", "resize"]


class Supervisor:
    """Of one attempt. on_report: called with each report of rank 0. on_message: with each line that people should read once.

    wants_resize: asked after each checkpoint whether the run should stop and begin with more replicas.
    """

    def __init__(
        self,
        group: WorkerGroup,
        signals: StopSignals,
        on_report: Callable[[ColumnReport], None],
        on_message: Callable[[str], None],
        wants_resize: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._group, self._signals = group, signals
        self._on_report, self._on_message, self._wants_resize = on_report, on_message, wants_resize
        self._reports_seen = [0] * len(group.columns)
        self._messages_seen = [0] * group.plan.mesh.replicas
        self.feed_counts: list[dict[str, Any]] = [{} for _ in range(group.plan.mesh.replicas)]
        self.watchdog = Watchdog(group.plan.config, [about["name"] for about in group.about])
        self._looked_at = boot_time()
        self._still, self._excused_until = "", 0.0
        self._stopping: tuple[StopReason, str] | None = None
        self._stop_by = float("inf")
        self._grace_seconds = group.plan.config.fault.stop_grace_seconds

    def watch(self, running: list[Any]) -> Outcome:
        """Wait for the references of all ranks.

        Raises UserError if a rank found wrong input; Interrupted after a second stop signal, or if a stop takes too long.
        """
        waiting, asked_at, nodes_at = list(running), 0.0, time.monotonic()
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=POLL_SECONDS)
            self._look_at_clock()
            if dead := own_ray.death():
                return Failure(kind="death", what=f"the Ray that this run started died ({dead})")
            for reference in done:
                if _failure(reference) is not None:
                    return self._excused(self._failed(running))
            now = time.monotonic()
            if self._signals.requested is not None:
                self._stop("signal", "")
            late = now > self._stop_by and not self.watchdog.saving
            if late or (self._signals.requested is not None and self.watchdog.silent_seconds > self._grace_seconds):
                why = "did not stop in time" if late else f"have not answered for {self._grace_seconds:g} s"
                self._on_message(f"the columns {why}; ending them. What was saved before is whole")
                raise Interrupted(self._signals.requested or 0)
            if now - nodes_at > NODES_SECONDS and self._stopping is None:  # in a cluster that is ending it might block
                nodes_at = now
                self._look_at_nodes()
            if now - asked_at > STATUS_SECONDS:
                asked_at = now
                hang = self._poll()
                if hang and waiting:
                    return self._excused(Failure(kind="hang", what=hang))
        self._poll(wait_seconds=5.0)
        results: list[dict[str, Any]] = ray.get(running)
        if results[0]["ended"] == "stopped":
            why, about = self._stopping or ("signal", "")
            return Stopped(why=why, step=results[0]["step"], about=about)
        return Finished(results=results)

    def _look_at_clock(self) -> None:
        before, self._looked_at = self._looked_at, boot_time()
        if (seconds := self._looked_at - before) > STILL_SECONDS:
            self._still = f"this machine stood still for {seconds:.0f} s"
            self._on_message(f"note: {self._still} (it was suspended, or all processes were stopped)")
            self.watchdog.excuse()
            self._stop_by += seconds
            self._excused_until = self._looked_at + self.watchdog.limit_seconds

    def _excused(self, failure: Failure) -> Failure:
        """With words for what the other ranks, or a time limit, took for somebody's fault."""
        if self._looked_at > self._excused_until:
            return failure
        return replace(failure, what=f"{self._still}, and then {failure.what}")

    def _stop(self, why: StopReason, about: str) -> None:
        """Ask all ranks to stop at a step, once; a signal takes over from another reason."""
        if self._stopping is None:
            self._group.stop()
        elif self._stopping[0] == "signal" or why != "signal":
            return
        self._stopping = (why, about)
        if why == "signal":
            starting = self.watchdog.starting and not any(self._reports_seen)
            step = self._group.plan.config.fault.hang_timeout_seconds
            self._stop_by = time.monotonic() + (STARTING_SECONDS if starting else step)

    def _look_at_nodes(self) -> None:
        ours = {about["node_id"]: about["node"] for about in self._group.about}
        leaving = [ours[node] for node in draining_nodes() if node in ours]
        if leaving:
            self._stop("drain", f"node {', '.join(sorted(set(leaving)))} is being drained")

    def _failed(self, running: list[Any]) -> Failure:
        """The cause, among all ranks' failures: an actor's death, then what an actor says itself."""
        failures, told, died = self._failures(running, COMPANION_SECONDS)
        if not died and all(lost_another(error) for _, error in failures):
            # The cluster takes longer to say that a node is gone.
            failures, told, died = self._failures(running, NODE_DEATH_SECONDS)
        # What the others still have to say; those that died with it, and are not known to have, do not answer.
        self._poll(0.5, without=[rank for rank, _ in died])
        of_their_own = [(rank, error) for rank, error in failures if not lost_another(error)]
        rank, error = (died or told or of_their_own or failures)[0]
        about = self._group.about[rank]
        who = f"{about['name']} (pid {about['pid']} on {about['node']})"
        if died:
            leaving = about["node_id"] in draining_nodes()
            how = "its node was taken away" if leaving else _how(error)
            return Failure(kind="death", what=f"{who} died: {how}", counts_as="preemption" if leaving else "failure")
        if is_wrong_input(error):
            raise UserError(explain(error))
        return Failure(kind="error", what=f"{who} failed: {explain(error)}", nature=nature_of(root_cause(error)))

    def _failures(self, running: list[Any], seconds: float) -> tuple[list[tuple[int, Exception]], ...]:
        """(rank, error) of all that failed; of those who say why themselves; of those who died. Waits for the latter only."""
        end = time.monotonic() + seconds
        while True:
            ready, _ = ray.wait(running, num_returns=len(running), timeout=0)
            failures = [(running.index(r), error) for r in ready if (error := _failure(r)) is not None]
            told = [
                item for item in failures if isinstance(root_cause(item[1]), UserError | FloatingPointError | OSError)
            ]
            # A column that called one that died fails with a RayTaskError which looks like that one's death.
            died: list[tuple[int, Exception]] = [
                (rank, error)
                for rank, error in failures
                if isinstance(error, DEATHS) and not isinstance(error, RayTaskError)
            ]
            if died or len(ready) == len(running) or time.monotonic() > end:
                return failures, told, died
            time.sleep(0.05)

    def _poll(self, wait_seconds: float = 1.0, without: Collection[int] = ()) -> str | None:
        """Fetch progress, new reports and messages; an actor that does not answer now is asked again next time.

        without: ranks that are dead, as far as is known. Returns what to say of a hang, if there is one.
        """
        mesh = self._group.plan.mesh
        asked = {
            column.status.remote(self._reports_seen[rank], self._messages_seen[mesh.replica(rank)]): rank
            for rank, column in enumerate(self._group.columns)
            if rank not in without
        }
        if not asked:
            return None
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=wait_seconds)
        answers = {asked[one]: ray.get(one) for one in ready if _failure(one) is None}
        for rank, status in answers.items():
            self.watchdog.heard(rank, status.progress)
            self._reports_seen[rank] += len(status.reports)
        hang = self.watchdog.hang()  # before people and files are told, which may take long without being a hang
        for rank, status in sorted(answers.items()):
            if rank == mesh.first_rank(mesh.replica(rank)):
                self._hear_feed(mesh.replica(rank), status)
            if rank == 0:
                self._pass_on(status.reports)
        return hang

    def _hear_feed(self, replica: int, status: Status) -> None:
        self.feed_counts[replica] = status.feed_counts
        self._messages_seen[replica] += len(status.messages)
        for message in status.messages:
            self._on_message(message)

    def _pass_on(self, reports: list[ColumnReport]) -> None:
        for report in reports:
            self._on_report(report)
            if isinstance(report, CheckpointReport) and self._stopping is None and (about := self._wants_resize()):
                self._stop("resize", about)


def boot_time() -> float:
    """In seconds; it goes on while the machine sleeps, as Linux's monotonic clock does not."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _failure(reference: Any) -> Exception | None:
    """What a finished call raised, or None."""
    try:
        ray.get(reference, timeout=0)
    except Exception as error:  # whatever the actor raised is what this function returns
        return error
    return None


def _how(error: BaseException) -> str:
    if isinstance(error, OutOfMemoryError):
        return explain(error)
    text = " ".join(str(error).split())
    for sign, words in (
        ("SIGKILL", ABRUPTLY),
        ("connection error code 2", ABRUPTLY),
        ("node", "its node died"),
        ("unavailable", "its node does not answer any more"),
    ):
        if sign in text:
            return words
    return explain(error)
