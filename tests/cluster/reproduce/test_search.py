"""Which rate is best, and when an error was reached, on made-up reports."""

from typing import Any

import pytest

from cluster.reproduce.search import best_rate, epochs_to, error_at_end, next_rate, smoothed


def reports(*errors: float, per_epoch: int = 4) -> list[dict[str, Any]]:
    return [
        {"epoch": number / per_epoch, "top1_error": error, "images": 100}
        for number, error in enumerate(errors, start=1)
    ]


def test_the_lowest_error_wins_and_of_equals_the_lowest_rate_and_at_the_edge_the_next_one_is_asked_for() -> None:
    assert best_rate({0.1: 0.4, 0.01: 0.3, 0.001: 0.5}) == 0.01
    assert best_rate({0.1: 0.3, 0.01: 0.3}) == 0.01
    assert best_rate({1.0: None, 0.1: 0.9}) == 0.1
    with pytest.raises(ValueError, match="every rate diverged"):
        best_rate({1.0: None})
    assert next_rate({0.001: 0.5, 0.002: 0.4, 0.004: 0.3}) == 0.008
    assert next_rate({0.001: 0.3, 0.002: 0.4}) == 0.0005
    for enough in ({0.001: 0.5, 0.002: 0.3, 0.004: 0.4}, {0.001: 0.5, 0.002: 0.3, 0.004: None}, {0.001: 0.5}):
        assert next_rate(enough) is None


def test_error_at_the_end_is_the_mean_of_the_last_half_epoch_of_the_search() -> None:
    found = reports(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
    assert error_at_end(found, 1.0) == pytest.approx(0.65)
    assert error_at_end(found, 2.0) == pytest.approx(0.25)
    assert error_at_end(found, 2.5) is None
    assert error_at_end([], 1.0) is None
    found[-1]["images"] = 300
    assert error_at_end(found, 2.0) == pytest.approx((0.3 * 100 + 0.2 * 300) / 400)


def test_epochs_to_an_error_lie_on_a_line_between_stretches() -> None:
    points = smoothed(reports(0.8, 0.6, 0.4, 0.2, 0.1, 0.1))
    assert [point.epoch for point in points] == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert [point.error for point in points] == pytest.approx([0.7, 0.5, 0.3, 0.15, 0.1])
    assert epochs_to(points, 0.5) == pytest.approx(0.5)
    assert epochs_to(points, 0.4) == pytest.approx(0.625)
    assert epochs_to(points, 0.75) == 0.25, "below it from the first stretch on"
    assert epochs_to(points, 0.05) is None
    assert epochs_to([], 0.5) is None
    # One report in a while is a stretch of its own.
    points = smoothed(reports(0.8, 0.4, per_epoch=1))
    assert [(point.epoch, point.error) for point in points] == [(0.5, 0.8), (1.5, 0.4)]
