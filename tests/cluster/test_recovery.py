"""The pauses between attempts, and budgets of nothing."""

import pytest

from cluster.outcomes import Failure, GiveUp, Restart
from cluster.recovery import LONGEST_BACKOFF_SECONDS, Budget
from configs.schema import Fault

DEATH = Failure(kind="death", what="column r0 c1 died")
PREEMPTION = Failure(kind="death", what="its node was taken away", counts_as="preemption")


def pauses(budget: Budget, failure: Failure, times: int) -> list[float]:
    decisions = [budget.decide(failure) for _ in range(times)]
    return [decision.after_seconds for decision in decisions if isinstance(decision, Restart)]


def test_the_first_restart_comes_at_once_and_the_next_ones_later_and_later() -> None:
    budget = Budget(Fault(max_failures=20, backoff_seconds=2.0))
    assert pauses(budget, DEATH, 9) == [0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_any_number_of_preemptions() -> None:
    assert pauses(Budget(Fault(backoff_seconds=0.001)), PREEMPTION, 2000)[-1] == LONGEST_BACKOFF_SECONDS


@pytest.mark.parametrize(
    ("settings", "failure"), [(Fault(max_failures=0), DEATH), (Fault(max_preemptions=0), PREEMPTION)]
)
def test_none_is_put_up_with_if_so_set(settings: Fault, failure: Failure) -> None:
    decision = Budget(settings).decide(failure)
    assert isinstance(decision, GiveUp) and f"fault.max_{failure.counts_as}s is 0" in decision.why
