"""Budgets of failures and preemptions, and what makes them begin anew."""

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
    assert LONGEST_BACKOFF_SECONDS == 60.0


def test_more_failures_than_allowed_without_a_new_checkpoint_end_the_run() -> None:
    budget = Budget(Fault(max_failures=2))
    budget.progressed(100)
    assert len(pauses(budget, DEATH, 2)) == 2
    decision = budget.decide(DEATH)
    assert isinstance(decision, GiveUp)
    assert "number 3" in decision.why and "fault.max_failures is 2" in decision.why


def test_a_new_checkpoint_begins_the_count_anew_and_the_same_one_does_not() -> None:
    budget = Budget(Fault(max_failures=1))
    for step in (None, 10, 20):
        budget.progressed(step)
        assert isinstance(budget.decide(DEATH), Restart)
    budget.progressed(20)
    assert isinstance(budget.decide(DEATH), GiveUp)


def test_preemptions_have_a_budget_of_their_own() -> None:
    budget = Budget(Fault(max_failures=1, max_preemptions=None))
    assert len(pauses(budget, PREEMPTION, 50)) == 50
    assert isinstance(budget.decide(DEATH), Restart)
    strict = Budget(Fault(max_failures=9, max_preemptions=0))
    decision = strict.decide(PREEMPTION)
    assert isinstance(decision, GiveUp) and "fault.max_preemptions is 0" in decision.why


def test_no_failure_is_put_up_with_if_so_set() -> None:
    assert isinstance(Budget(Fault(max_failures=0)).decide(DEATH), GiveUp)


def test_what_would_only_repeat_itself_is_not_tried_again() -> None:
    full = Failure(kind="error", what="No space left on device", can_go_on=False)
    assert isinstance(Budget(Fault()).decide(full), GiveUp)
