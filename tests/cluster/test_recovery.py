"""The pauses between attempts, and budgets of nothing."""

import pytest

from cluster.outcomes import Failure, GiveUp, Restart
from cluster.recovery import Budget
from configs.schema import Fault

DEATH = Failure(kind="death", what="column r0 c1 died")
PREEMPTION = Failure(kind="death", what="its node was taken away", counts_as="preemption")


@pytest.mark.parametrize(
    ("settings", "failure", "pauses"),
    [
        (Fault(max_failures=20, backoff_seconds=2.0), DEATH, [0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]),
        (Fault(backoff_seconds=0.001), PREEMPTION, [0.0, *(min(0.001 * 2.0 ** min(n, 50), 60.0) for n in range(2000))]),
        (Fault(max_failures=0), DEATH, []),
        (Fault(max_preemptions=0), PREEMPTION, []),
    ],
)
def test_restarts_come_later_and_later(settings: Fault, failure: Failure, pauses: list[float]) -> None:
    budget = Budget(settings)
    decisions = [budget.decide(failure) for _ in pauses]
    assert [decision.after_seconds for decision in decisions if isinstance(decision, Restart)] == pauses
    if not pauses:
        refused = budget.decide(failure)
        assert isinstance(refused, GiveUp) and f"fault.max_{failure.counts_as}s is 0" in refused.why
