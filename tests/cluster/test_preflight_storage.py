"""The checkpoint folder as nodes and driver see it. Nodes are calls in this process; real ones are in test_preflight.py."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.auto import NodeDevices
from cluster.plan import Plan, make_plan
from cluster.preflight.nodes import Node
from cluster.preflight.storage import StorageTest, look_at_storage
from configs.loader import load
from tests.cluster.play import SIZE
from tests.cluster.runs import SMALL

TOKEN = "0815"
ONE = 8 * 26_346
"""Bytes of a checkpoint of small.yaml's network: weights and momentum."""


def plan_of(keep: int) -> Plan:
    return make_plan(load(SMALL, [f"checkpoint.keep={keep}"]), 0, SIZE)


def wrong(location: Path | str, *, seen_by_nodes: Path | str | None = None, keep: int = 2) -> list[str]:
    """What is found wrong. seen_by_nodes: the place that nodes take for this one."""
    plan = plan_of(keep)
    devices = NodeDevices(gpus=0, cpus=1)
    nodes = [Node(id=name, address=name, name=name, devices=devices, store_bytes=0) for name in "ab"]
    with StorageTest(str(location), TOKEN, nodes) as storage:
        seen = {node.id: look_at_storage(str(seen_by_nodes or location), TOKEN, node.id) for node in nodes}
        results = storage.check(plan, seen)
    return [result.line for result in results if not result.ok]


def test_a_good_folder_is_left_as_it_was(tmp_path: Path) -> None:
    there = tmp_path / "run" / "checkpoints"
    assert wrong(there) == wrong(f"file://{tmp_path / 'url'}") == []
    assert not there.parent.exists() and list((tmp_path / "url").iterdir()) == []
    (there / "step-00000001").mkdir(parents=True)
    assert wrong(there) == []
    assert [entry.name for entry in there.iterdir()] == ["step-00000001"]


def test_a_folder_that_nodes_do_not_see(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for scheme in ("", "file://"):
        found = wrong(f"{scheme}{tmp_path / 'one'}", seen_by_nodes=f"{scheme}{tmp_path / 'other'}")
        assert len(found) == 2 and all("its marker is not there" in line for line in found)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    [found] = wrong(tmp_path / "file" / "checkpoints")
    assert "cannot be written: Not a directory" in found


@pytest.mark.parametrize("keep", [2, 5])
@pytest.mark.parametrize("there", [0, 1, 3])
def test_room_for_the_checkpoints_that_are_still_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int, there: int
) -> None:
    """Those that are kept, one that is being saved, and what a crash left of another; each is weights and momentum.

    Those that are there already will be replaced: a run that goes on needs so much less.
    """
    plan = plan_of(keep)
    assert (plan.most_checkpoints, plan.checkpoint_bytes) == (keep + 2 + plan.config.checkpoint.keep_best, ONE)
    for step in range(there):
        folder = tmp_path / f"step-{step:08d}-a1"
        folder.mkdir()
        (folder / "columns.safetensors").write_bytes(bytes(ONE))
    wanted = (plan.most_checkpoints - there) * ONE
    disk = SimpleNamespace(free=wanted)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    assert wrong(tmp_path, keep=keep) == []
    disk.free -= 1
    [found] = wrong(tmp_path, keep=keep)
    assert f"checkpoints may take {wanted / 1e9:,.2f} GB more" in found
