"""Noise of seeds and verdicts on made-up errors, and the table of them."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from cluster.reproduce.ablation_table import compare, compare_overfitting, ensemble, tell_and_write
from cluster.reproduce.comparison import pooled, spread, verdict


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


@pytest.mark.parametrize(
    ("difference", "limit", "paper", "expected"),
    [
        (2.0, 1.0, 1.4, "visible, as in the paper"),
        (-2.0, 1.0, 1.4, "visible, contrary to the paper"),
        (0.9, 1.0, 1.4, "within the noise of seeds"),
        (-1.0, 1.0, 1.4, "within the noise of seeds"),
        (2.0, 1.0, None, "visible"),
        (20.0, None, 1.4, "noise not known: one seed each"),
    ],
)
def test_verdicts(difference: float, limit: float | None, paper: float | None, expected: str) -> None:
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
OVERFITTING = {
    "all": [-0.02, -0.02, -0.03],
    "no_crops": [0.08, 0.07],
    "no_colour_noise": [-0.02, -0.03],
    "tanh": [0.08, 0.07],
    "one_gpu": [0.08, 0.07],
}


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


def test_claims_of_overfitting_are_judged_by_overfitting_alone() -> None:
    cells = compare_overfitting(OVERFITTING)
    assert cells["no_crops"].difference == pytest.approx(7.5 + 7 / 3)
    assert {name: cell.verdict for name, cell in cells.items()} == {
        "all": "",
        "no_crops": "visible, as in the paper",
        "no_colour_noise": "within the noise of seeds",
        "tanh": "visible",
        "one_gpu": "visible",
    }


def test_ensemble_beside_its_members() -> None:
    numbers = ensemble(FOUND)
    assert numbers is not None
    assert numbers["top1_error_10_ensemble"] == pytest.approx(38.0)
    assert numbers["top1_error_10_members"] == pytest.approx(41.0)
    assert numbers["top5_error_1_ensemble"] == pytest.approx(20.0)
    assert ensemble({"all": evaluation_of(0.4)}) is None
    assert ensemble({"tanh": FOUND["tanh"]}) is None


def test_table_json_and_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    tell_and_write(tmp_path, FOUND, OVERFITTING)
    printed = capsys.readouterr().out
    assert "no crops, no mirror images" in printed and "+19.50" in printed
    content = json.loads((tmp_path / "ablations.json").read_text())
    assert content["seeds"] == {"all": 3, "no_crops": 2, "no_colour_noise": 2, "tanh": 2, "one_gpu": 2}
    assert content["networks"]["no_crops"]["overfitting"]["mean"] == pytest.approx(7.5)
    assert content["networks"]["tanh"]["top1_error_views10"]["difference"] == pytest.approx(-10.5)
    assert (tmp_path / "ablations.png").read_bytes().startswith(b"\x89PNG")
