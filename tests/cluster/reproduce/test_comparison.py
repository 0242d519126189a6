"""On made-up errors and reports: noise of seeds, verdicts and their table; which rate is best, when an error was reached."""

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.reproduce.ablation_table import compare, compare_overfitting, tell_and_write
from cluster.reproduce.comparison import pooled, spread, verdict
from cluster.reproduce.search import best_rate, epochs_to, error_at_end, next_rate, smoothed
from workers.reports import ErrorsReport


def test_noise_is_pooled_over_networks() -> None:
    groups = {"all": [50.0, 51.0, 52.0], "a": [60.0, 62.0], "b": [70.0]}
    noise = pooled(groups)
    assert noise is not None
    assert noise.freedom == 3
    squares = 2 * statistics.variance(groups["all"]) + statistics.variance(groups["a"])
    assert noise.deviation == pytest.approx((squares / 3) ** 0.5)
    # 3.182 is Student's t for 3 degrees of freedom and 95 % (any table).
    assert noise.of_difference(3, 2) == pytest.approx(3.182 * noise.deviation * (1 / 3 + 1 / 2) ** 0.5, rel=1e-3)
    assert pooled({"all": [50.0], "a": [60.0]}) is None
    assert spread([50.0]) is None
    assert spread(groups["all"]) == pytest.approx(1.0)


def test_verdicts() -> None:
    for difference, limit, paper, expected in (
        (2.0, 1.0, 1.4, "visible, as in the paper"),
        (-2.0, 1.0, 1.4, "visible, contrary to the paper"),
        (0.9, 1.0, 1.4, "within the noise of seeds"),
        (-1.0, 1.0, 1.4, "within the noise of seeds"),
        (2.0, 1.0, None, "visible"),
        (20.0, None, 1.4, "noise not known: one seed each"),
    ):
        assert verdict(difference, limit, paper) == expected


def evaluation_of(*top1: float, together: float = 0.3) -> dict[int, dict[str, Any]]:
    def one(error: float) -> dict[str, float]:
        return {"top1_error": error, "top5_error": error / 2}

    return {
        1: {**one(together + 0.02), "members": [one(error + 0.02) for error in top1]},
        10: {**one(together), "members": [one(error) for error in top1]},
    }


FOUND = {
    "all": evaluation_of(0.40, 0.41, 0.42, together=0.38),
    "no_crops": evaluation_of(0.60, 0.61),
    "no_colour_noise": evaluation_of(0.41, 0.42),
    "tanh": evaluation_of(0.30, 0.31),
    "one_gpu": evaluation_of(0.45, 0.46),
}
OVERFITTING = {name: [0.08, 0.07] for name in FOUND}
OVERFITTING |= {"all": [-0.02, -0.02, -0.03], "no_colour_noise": [-0.02, -0.03]}


def test_differences_are_to_the_full_network_in_points() -> None:
    cells = compare(FOUND, 10, "top1_error")
    assert cells["all"].difference is None and cells["all"].verdict == ""
    assert cells["all"].mean == pytest.approx(41.0)
    assert cells["no_crops"].difference == pytest.approx(19.5)
    assert cells["no_crops"].verdict == "visible", "the paper says that it overfits, which is another thing"
    assert cells["one_gpu"].verdict == "visible, as in the paper" and cells["one_gpu"].paper == 1.7
    assert cells["no_colour_noise"].verdict == "within the noise of seeds"
    assert cells["tanh"].verdict == "visible", "the paper says nothing of its error in the end"
    assert compare(FOUND, 1, "top1_error")["tanh"].mean == pytest.approx(32.5)
    assert compare({"tanh": FOUND["tanh"]}, 1, "top1_error")["tanh"].difference is None
    # Claims of overfitting are judged by overfitting alone.
    cells = compare_overfitting(OVERFITTING)
    assert cells["no_crops"].difference == pytest.approx(7.5 + 7 / 3)
    verdicts = ["", "visible, as in the paper", "within the noise of seeds", "visible", "visible"]
    assert [cells[name].verdict for name in FOUND] == verdicts


def test_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    tell_and_write(tmp_path, FOUND, OVERFITTING)
    printed = capsys.readouterr().out
    assert "no crops, no mirror images" in printed and "+19.50" in printed
    content = json.loads((tmp_path / "ablations.json").read_text())
    assert content["seeds"] == {"all": 3, "no_crops": 2, "no_colour_noise": 2, "tanh": 2, "one_gpu": 2}
    assert content["networks"]["no_crops"]["overfitting"]["mean"] == pytest.approx(7.5)
    assert content["networks"]["tanh"]["top1_error_views10"]["difference"] == pytest.approx(-10.5)
    ensemble = content["ensemble"]
    assert ensemble["top1_error_10_ensemble"] == pytest.approx(38.0)
    assert ensemble["top1_error_10_members"] == pytest.approx(41.0)
    assert ensemble["top5_error_1_ensemble"] == pytest.approx(20.0)
    assert (tmp_path / "ablations.png").read_bytes().startswith(b"\x89PNG")


def reports(*errors: float, per_epoch: int = 4) -> list[ErrorsReport]:
    other: dict[str, Any] = {"step": 1, "images": 100, "loss": 1.0, "top5_error": 0.1}
    return [
        ErrorsReport(epoch=number / per_epoch, top1_error=error, **other)
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
    found[-1] = replace(found[-1], images=300)
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
