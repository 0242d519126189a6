"""What follows a failure: another attempt or the end, by the budgets of the config's `fault` section."""

from cluster.outcomes import Decision, Failure, GiveUp, Restart
from configs.schema import Fault

LONGEST_BACKOFF_SECONDS = 60.0
MOST_DOUBLINGS = 100
"""No pause is so short that it would not be the longest by then; a float has room for 1,023."""


class Budget:
    """Counts failures and preemptions apart, both since the last new checkpoint."""

    def __init__(self, settings: Fault) -> None:
        self.settings = settings
        self.failures = self.preemptions = 0
        self._step: int | None = None

    def progressed(self, step: int | None) -> None:
        """Tell the step of the newest checkpoint (None: there is none); if it is a new one, counting begins anew."""
        if step != self._step:
            self._step, self.failures, self.preemptions = step, 0, 0

    def decide(self, failure: Failure) -> Decision:
        if failure.nature == "full":
            return GiveUp(why="make room on the disk first")
        if failure.nature == "wrong":
            return GiveUp(why="another attempt would end in the same way")
        if failure.counts_as == "preemption":
            self.preemptions += 1
            count, limit, name = self.preemptions, self.settings.max_preemptions, "fault.max_preemptions"
        else:
            self.failures += 1
            count, limit, name = self.failures, self.settings.max_failures, "fault.max_failures"
        if limit is not None and count > limit:
            since = "the last checkpoint" if self._step is not None else "the beginning"
            return GiveUp(why=f"that was number {count} since {since}, and {name} is {limit}")
        pause = 0.0 if count == 1 else self.settings.backoff_seconds * 2.0 ** min(count - 2, MOST_DOUBLINGS)
        allowed = "any number" if limit is None else str(limit)
        return Restart(
            after_seconds=min(pause, LONGEST_BACKOFF_SECONDS),
            why=f"{failure.counts_as} {count} of {allowed} since the last checkpoint",
        )
