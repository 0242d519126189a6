"""Verdicts are said once, again when they have grown, and once more when they are over."""

from typing import Any

from cluster.watch import Watch
from tests.cluster.reports import evaluation, start, train
from tests.cluster.test_verdicts import SETTING

WAITING: dict[str, Any] = {"data": (1.5, 1.5)}  # of 5 s: 30 %


def said(watch: Watch, steps: range, **values: Any) -> list[str]:
    return [line for step in steps for line in watch.hear(train(step, **values))]


def test_a_verdict_is_said_once_and_once_when_it_is_over() -> None:
    watch = Watch(SETTING)
    assert said(watch, range(20, 200, 20)) == []
    first = said(watch, range(200, 2000, 20), **WAITING)
    assert len(first) == 1 and first[0].startswith("data workers are the bottleneck: ")
    assert said(watch, range(2000, 4000, 20)) == ["data workers keep up again"]
    assert len(said(watch, range(4000, 5000, 20), **WAITING)) == 1, "it is news again"


def test_what_has_grown_is_said_again() -> None:
    watch = Watch(SETTING)
    assert len(said(watch, range(20, 400, 20), **WAITING)) == 1
    assert said(watch, range(400, 800, 20), data=(2.0, 2.0)) == [], "from 30 to 36 % is no news"
    again = said(watch, range(800, 1200, 20), data=(9.0, 9.0))
    shares = [int(line.split(": ")[1].split("%")[0]) for line in again]
    assert 1 <= len(shares) <= 3 and shares == sorted(shares), "more than once, if it grows through the window"


def test_a_moment_without_it_is_not_its_end() -> None:
    watch = Watch(SETTING)
    assert len(said(watch, range(20, 400, 20), **WAITING)) == 1
    assert said(watch, range(400, 460, 20)) == []
    assert said(watch, range(460, 800, 20), **WAITING) == []


def test_what_goes_up_and_down_around_its_limit_is_said_once() -> None:
    """A share of 16 to 25 % in turn, for ten reports each."""
    watch = Watch(SETTING)
    lines = []
    for begin in range(20, 4000, 400):
        lines += said(watch, range(begin, begin + 200, 20), data=(1.15, 1.15))
        lines += said(watch, range(begin + 200, begin + 400, 20), data=(0.65, 0.65))
    assert len(lines) == 1 and "25% of the step" in lines[0]
    assert said(watch, range(4020, 4400, 20)) == ["data workers keep up again"]


def test_after_a_restart_the_warming_up_is_left_out_again() -> None:
    """The first report of a start waits for its first batch; old and new reports are not mixed."""
    watch = Watch(SETTING)
    watch.hear(start())
    watch.hear(train(20, data=(60.0, 60.0)))
    assert said(watch, range(40, 200, 20)) == []
    watch.hear({"kind": "restart", "step": 100, "cause": "died"})
    watch.hear(train(120, data=(60.0, 60.0)))
    assert said(watch, range(140, 300, 20)) == []


def test_what_holds_on_after_a_restart_is_not_said_to_be_over() -> None:
    """A loss at ln(classes) for 5,020 steps, a restart at 5,000, and the same again: it is said when it is seen anew."""
    watch = Watch(SETTING)
    before = said(watch, range(20, 5040, 20), loss=6.9, **WAITING)
    assert [line[:16] for line in before] == ["data workers are", "the loss has sto"]
    watch.hear({"kind": "restart", "step": 5000, "cause": "died"})
    after = said(watch, range(5020, 10_060, 20), loss=6.9, **WAITING)
    assert [line[:16] for line in after] == ["data workers are", "the loss has sto"]


def test_a_halt_is_said_as_it_grows_and_ends_with_the_next_report() -> None:
    watch = Watch(SETTING)
    said(watch, range(20, 100, 20))  # the last report is of second 16
    spoken = [(now, line) for now in range(20, 1000, 5) for line in watch.look(float(now))]
    assert [now for now, _ in spoken] == [80, 145, 275, 535], "whenever it has doubled since it was said"
    assert all("no progress for" in line for _, line in spoken)
    assert watch.hear(evaluation(80, time=990.0)) == ["it goes on"]
    assert watch.look(1000.0) == []


def test_a_loss_that_never_leaves_chance_is_said_as_its_time_doubles() -> None:
    watch = Watch(SETTING)
    spoken = [(step, line) for step in range(20, 45_000, 20) for line in watch.hear(train(step, loss=6.9))]
    assert [step for step, _ in spoken] == [5020, 10_020, 20_020]
    assert all("ln(classes) = 6.91" in line for _, line in spoken)
    assert "for 20,000 steps" in spoken[-1][1]
