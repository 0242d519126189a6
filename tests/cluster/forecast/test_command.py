"""`train --plan` with its predictions, as people run it: words, tables, drawings, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cluster import train
from cluster.failures import RunFailed
from cluster.forecast.calibrate import calibrate
from cluster.forecast.sweep import parse_range
from configs.errors import UserError
from configs.machine import built_in_machines, load_machine

Plan = Callable[..., str]


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str]) -> Plan:
    """What `train --plan original.yaml` prints; code: with which it ends, where 2 gives what it prints as an error."""

    def call(*arguments: str, code: int = 0) -> str:
        ended = train.main(["--plan", "original.yaml", *arguments])
        out, err = capsys.readouterr()
        assert ended == code, err
        return err if code else out

    return call


def test_the_plan_says_what_it_guesses_from(plan: Plan) -> None:
    out = plan()
    assert re.search(
        r"^predicted {4}\d+ images/s on \d+ CPUs?: step .*; [\d.]+ days for the whole run on ILSVRC-2012$", out, re.M
    )
    assert "a guess, not measured here" in out and "--calibrate FILE.yaml" in out
    assert "exchange 1 %" in out


def test_every_machine_can_be_planned_for_and_devices_decide_the_mesh(plan: Plan) -> None:
    for machine in built_in_machines():
        out, described = plan("--machine", machine), load_machine(machine)
        assert described.name in out
        assert ("from measured constants" in out) == described.measured
        assert ("USD" in out) == (described.price_per_device_hour is not None)
    assert "on 1 GPU:" in plan("--machine", "h100", "--devices", "1")
    assert "on 32 GPUs in 4 nodes" in plan("cluster.replicas=16", "--machine", "a100")


def test_a_bottleneck_is_named_with_the_setting_that_mends_it(plan: Plan) -> None:
    told = r"data workers are the bottleneck: ([\d,]+) images/s with cluster.data_workers=(\d+)"
    found = re.search(told, plan("--machine", "h100", "cluster.data_workers=1"))
    assert found
    out = plan("--machine", "h100", f"cluster.data_workers={found[2]}")
    assert "bottleneck" not in out and f"predicted    {found[1]} images/s" in out


def test_a_sweep_is_a_table_and_a_picture(plan: Plan, tmp_path: Path) -> None:
    picture = tmp_path / "scaling.png"
    out = plan("--machine", "a100", "--sweep", "replicas=1..1024", "--plot", str(picture))
    shared, larger = out.split("\n\n")[:2]
    assert [line.split()[0] for line in shared.splitlines()[2:-1]] == ["1", "2", "4", "8", "16", "32", "64", "128"]
    assert "not possible with 256, 512, 1,024: train.batch_size: 128" in shared
    assert [line.split()[0] for line in larger.splitlines()[2:]][-1] == "1,024"
    assert Image.open(picture).size[0] > 800


def test_ranges() -> None:
    assert parse_range("replicas=1..9").values == (1, 2, 4, 8)
    assert parse_range("batch=32,96").key == "train.batch_size"
    for wrong in ("replicas", "replicas=", "replicas=0..4", "replicas=a", "=1", "replicas=4..1"):
        with pytest.raises(UserError, match="a sweep looks like"):
            parse_range(wrong)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--machine", "h10"], "did you mean h100?"),
        (["--machine", "gtx580", "compute.precision=bf16"], "without gflops for bf16"),
        (["--machine", "h100", "--devices", "2", "cluster.device=cpu"], "cluster.device is cpu"),
        (["--plot", "x.png"], "--plot draws a sweep"),
        (["--sweep", "replicas=1,2", "--machine", "a100", "--plot", "/nowhere/x.png"], "cannot be written"),
        (["--machine", "cpu", "--calibrate", "x.yaml"], "give one of them"),
        (["--calibrate", "/nowhere/x.yaml"], "cannot be written"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], told: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    err = plan(*arguments, code=2)
    assert err.startswith("error: ") and told in err and "Traceback" not in err


def test_predictions_belong_to_plans(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["original.yaml", "--machine", "h100"])
    assert "belong to --plan" in capsys.readouterr().err


@pytest.mark.ci
def test_calibration_describes_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "here.yaml"
    small = [f"network.convs.conv{number}.maps=16" for number in range(1, 6)]
    small += ["compute.fused=false", "network.denses.fc6.units=32", "network.denses.fc7.units=32"]
    machine = calibrate(file, images=1, settings=tuple(small), cores=1)
    assert load_machine(file) == machine
    assert machine.measured and machine.device == "cpu" and machine.devices_per_node == 1
    assert 0.1 < machine.gflops["fp32"] < 1e4
    assert 0.01 < machine.within_node.gigabytes_per_second < 1000


@pytest.mark.ci
def test_a_calibration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "here.yaml"
    file.write_text("name: measured with care\n")
    with pytest.raises(RunFailed, match="measuring parts failed"):
        calibrate(file, images=1, settings=("network.columns=0",), cores=1)
    assert file.read_text() == "name: measured with care\n"
