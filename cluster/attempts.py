"""A run as attempts: each begins at the newest checkpoint with new actors, until the program is done or the budget is spent.

After a failure, in this order:
 1. who and why, and what can be seen of it, is written down while the actors are still there (`diagnosis.py`);
 2. all actors of the attempt are killed: a process that waits in a collective for one that is gone can do nothing else;
 3. the budget says whether to try again (`recovery.py`);
 4. it is waited until the cluster has room, for the whole mesh or, if `fault.elastic`, for a smaller one;
 5. the next attempt's actors are started, earlier ones' saves are stopped, and it goes on from the newest checkpoint.
"""

import time
from collections.abc import Callable
from threading import Thread
from typing import Any

from cluster import own_ray
from cluster.capacity import replicas_that_fit
from cluster.console import RunConsole, clock
from cluster.diagnosis import diagnose
from cluster.failures import NoRoomError, RunFailed
from cluster.group import WorkerGroup
from cluster.outcomes import Failure, Finished, GiveUp, Outcome, Stopped
from cluster.plan import Plan
from cluster.ray_session import start_own_ray_again
from cluster.recovery import Budget
from cluster.reporting import Reporting
from cluster.run_folder import RunFolder
from cluster.signals import Interrupted, StopSignals
from cluster.supervisor import Supervisor
from cluster.traces import with_traces
from configs.errors import UnreachableError
from workers.reports import Report, from_json

SEEING_SECONDS = 30.0
"""How long the end of a run waits for what is still being written down of a failure."""
LOOK_SECONDS = 0.5
"""How often it is looked whether there is room."""
SETTLE_SECONDS = 8.0
"""What the last attempt held is free within this time, and a node whose Ray is started anew is back (6 s). Before it an elastic
run takes no fewer replicas."""
WAITING_SECONDS = 30.0
"""How often people are told that there is no room yet."""


class Attempts:
    """All attempts of one command at one run; `number` is that of the last one."""

    def __init__(
        self,
        run: RunFolder,
        plan: Plan,
        signals: StopSignals,
        console: RunConsole,
        reporting: Reporting,
        number: int,
    ) -> None:
        """number: of the first of them. Until an attempt's actors are there, another command's may go on with the run."""
        self.run, self.signals, self.console, self.reporting = run, signals, console, reporting
        self.plan = plan.with_replicas(plan.config.cluster.replica_count)
        """With all replicas; an attempt may have fewer."""
        self.number = self._first = number
        self.failures: list[str] = []
        self.feed_counts: list[dict[str, Any]] = []
        self._budget = Budget(plan.config.fault)
        self._seeing: list[Thread] = []

    def train(self) -> Finished | Stopped:
        """Go on to the end of the program, or until a signal asks for a stop.

        Raises RunFailed, with the cause, if a failure is more than the budget allows, UserError for wrong input, Interrupted.
        """
        try:
            return self._train()
        finally:
            for thread in self._seeing:
                thread.join(SEEING_SECONDS)

    def _train(self) -> Finished | Stopped:
        plan = self._shape(first=True)
        self._newest_step()
        while True:
            outcome = self._attempt(plan)
            if isinstance(outcome, Finished) or (isinstance(outcome, Stopped) and outcome.why == "signal"):
                return outcome
            if isinstance(outcome, Stopped):
                self.reporting.note(f"stopped after step {outcome.step:,}, because {outcome.about}; starting again")
            elif self.signals.requested is not None:  # what was to stop has ended in another way
                raise Interrupted(self.signals.requested)
            step = self._recovered(outcome if isinstance(outcome, Failure) else None)
            self._revive()
            self.number += 1
            self.reporting.restarted(outcome.kind if isinstance(outcome, Failure) else outcome.why, step)
            plan = self._shape(first=False)

    def _recovered(self, failure: Failure | None) -> int:
        """The step to go on after, once the failure is settled, and those that the checkpoints' place may have then."""
        while True:
            step = 0
            away: Failure | None = None
            if failure is None or failure.nature == "away":  # else the checkpoints may be out of reach as well
                try:
                    step = self._newest_step()
                except UnreachableError as error:
                    away = Failure(kind="error", what=str(error))
            if failure is not None:
                self._settle(failure)
            if away is None:
                return step
            failure = away
            self._tell(failure)

    def _revive(self) -> None:
        """Start the run's own Ray again if it has died: nobody else would."""
        if dead := own_ray.death():
            self.reporting.note(f"starting Ray anew ({dead})")
            try:
                start_own_ray_again()
            except (OSError, RuntimeError) as error:
                raise RunFailed(f"Ray died ({dead}) and could not be started again: {error}") from None

    def _newest_step(self) -> int:
        """Of the checkpoints, which the budget is told."""
        newest = self.run.latest()
        self._budget.progressed(newest.step if newest else None)
        return newest.step if newest else 0

    def _attempt(self, plan: Plan) -> Outcome:
        console, replicas = self.console, plan.mesh.replicas
        if plan.program().parts > 1:
            console.message(
                f"{replicas} of {self.plan.mesh.replicas} replicas: each takes {plan.program().parts} parts of a batch in turn"
            )
        try:
            with WorkerGroup(plan, attempt=self.number) as group:
                outcome = self._watch(group)
        except UnreachableError as error:
            outcome = Failure(kind="error", what=str(error))
            self._tell(outcome)
        except NoRoomError as error:
            if self.number == self._first and own_ray.death() is None:
                raise  # never before has there been room: a matter for the person at the keyboard
            outcome = Failure(kind="no room", what=str(error))
            self._tell(outcome)
        except RunFailed as error:  # an actor that died while the others started
            outcome = Failure(kind="death", what=str(error))
            self._tell(outcome)
        return outcome

    def _watch(self, group: WorkerGroup) -> Outcome:
        console = self.console
        start = self.run.to_go_on_from(self.number, lambda text: self.reporting.note(f"note: {text}"))
        step, state = (start.step, start.state) if start else (0, {})
        untold = from_json(state.get("reports", ()))  # older checkpoints have none
        self.reporting.began(self.number, step, group.plan.mesh.replicas, untold)
        if start:
            console.message(f"continuing from {start.folder}")
        self.reporting.placed(group.about)
        for about in group.about:
            console.message(f"{about['name']}: pid {about['pid']} on {about['node']}, {about['device']}")
        for name, pid in group.data_pids.items():
            console.message(f"{name}: pid {pid}")
        self.signals.gentle = True

        def heard(report: Report) -> None:
            self.reporting.report(with_traces(report, group, self.run.path, self.reporting.note))

        supervisor = Supervisor(group, self.signals, heard, self.reporting.note, self._room_for_more(group.plan))
        self.reporting.feeds = supervisor.feed_counts
        try:
            outcome = supervisor.watch(group.train(self.run.checkpoints, start))
        finally:
            self.signals.gentle = False
        self.feed_counts = supervisor.feed_counts
        if isinstance(outcome, Failure):
            self._tell(outcome)
            folder = self.run.path / "diagnosis" / f"attempt-{self.number}"
            if own_ray.death() is None:  # else nobody is left to ask
                self._seeing.append(diagnose(folder, outcome, group, supervisor.watchdog.describe()))
                console.message(f"what can be seen of it will be in {folder}")
        return outcome

    def _tell(self, failure: Failure) -> None:
        """As soon as it is noticed."""
        self.reporting.note(failure.what)
        self.reporting.failed(self.number, failure.kind, failure.what)

    def _settle(self, failure: Failure) -> None:
        """Go on or not. Raises RunFailed if the budget is spent."""
        self.failures.append(failure.what)
        decision = self._budget.decide(failure)
        if isinstance(decision, GiveUp):
            raise RunFailed(f"{failure.what}. No other attempt is made: {decision.why}")
        self.reporting.note(f"trying again: {decision.why}")
        time.sleep(decision.after_seconds)  # a stop signal raises Interrupted out of it

    def _shape(self, *, first: bool) -> Plan:
        """The plan with as many replicas as there is room for; waits for room, but not before the first attempt."""
        wanted, fault = self.plan.mesh.replicas, self.plan.config.fault
        began, told = time.monotonic(), time.monotonic()
        while True:
            fits = replicas_that_fit(self.plan)
            waited = time.monotonic() - began
            if fits == wanted or (first and not fault.elastic):
                return self.plan
            if fault.elastic and fits and waited > SETTLE_SECONDS:
                return self.plan.with_replicas(fits)
            if first and waited > SETTLE_SECONDS:
                return self.plan  # the worker group says what is missing
            if waited > fault.rejoin_timeout_seconds:
                raise RunFailed(
                    f"for {clock(waited)} there has been no room for the run in the cluster (fault.rejoin_timeout_seconds); "
                    "bring nodes back, or set fault.elastic=true to go on with fewer replicas"
                )
            if time.monotonic() - told > WAITING_SECONDS:
                told = time.monotonic()
                self.console.message(
                    f"waiting for room for {wanted} replica(s) since {clock(waited)}; there is some for {fits}"
                )
            time.sleep(LOOK_SECONDS)

    def _room_for_more(self, plan: Plan) -> Callable[[], str | None]:
        """What the supervisor asks after a checkpoint: whether to stop and begin with more replicas, and why."""

        def ask() -> str | None:
            now = plan.mesh.replicas
            if not plan.config.fault.elastic or now == self.plan.mesh.replicas:
                return None
            fits = replicas_that_fit(self.plan, held=now)
            return f"there is room for {fits} replicas instead of {now}" if fits > now else None

        return ask
