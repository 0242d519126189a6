"""Preflight on a real cluster of two nodes, the second of which has everything wrong that a node can have."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.auto import NodeDevices
from cluster.plan import DatasetSize, Plan, make_plan
from cluster.preflight import links, run
from cluster.preflight.nodes import Node, alive_nodes, check_joined, check_room, wait_for_nodes
from cluster.preflight.results import Result
from configs.errors import UserError
from configs.loader import load
from tests.cluster.other_node import MAY_MOUNT, other_node
from tests.cluster.runs import PROJECT, SMALL, Run, finished
from tests.data.made_up import many_rows

pytestmark = pytest.mark.skipif(
    not MAY_MOUNT, reason="needs the right to mount (unshare -m), to give a node its own view"
)

GOOD, BAD = "127.0.0.1", "127.0.0.2"
HEAD = {"num_cpus": 5, "include_dashboard": False, "object_store_memory": 300_000_000}
LARGE = ("train.batch_size=40000", "cluster.window_batches=4")
"""Settings whose windows do not fit the second node's object store."""


@dataclass
class Place:
    """The cluster of this module, and folders of which the second node sees others."""

    ray: Any
    address: str
    folder: Path
    process: psutil.Process
    """Of the second node."""

    def plan(self, *settings: str, data: str = "same") -> Plan:
        """Two replicas; the data set is there, though it is not one that could be trained on."""
        common = ["cluster.replicas=2", "cluster.cpus_per_data_worker=0.5", "data.drawn_pictures=null"]
        config = load(SMALL, [*common, f"data.path={self.folder / data}", *settings])
        return make_plan(config, 0, DatasetSize(train_rows=64, validation_rows=100, image_size=28, classes=10))

    def look(self, *settings: str, data: str = "same", location: Path | str | None = None) -> list[Result]:
        where = location or self.folder / "runs" / "small" / "checkpoints"
        return run.look_at_nodes(self.ray, self.plan(*settings, data=data), str(where))[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("preflight")
    for name, rows in (("same", 64), ("hidden", 64), ("replaced", 64), ("other", 32), ("cut", 64)):
        many_rows(folder / name, rows, shard_rows=16)
    shard = sorted((folder / "cut").glob("train-*.arrow"))[1]
    shard.write_bytes(shard.read_bytes()[:-8])
    for name in ("runs", "old/numpy-1.2.3.dist-info"):
        (folder / name).mkdir(parents=True)
    (folder / "old/numpy-1.2.3.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.2.3\n")
    changed = folder / "demo.yaml"
    changed.write_text((PROJECT / "configs" / "demo.yaml").read_text() + "# another version\n")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(PROJECT))
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        try:
            ray.init(address=cluster.address, log_to_driver=False)
            mounts = {folder / "runs": None, folder / "hidden": None, folder / "replaced": folder / "other"}
            mounts |= {PROJECT / "configs" / "demo.yaml": changed}
            libraries = {"PYTHONPATH": f"{folder / 'old'}:{PROJECT}"}
            node: dict[str, Any] = {"num_cpus": 3, "node_ip_address": BAD, "object_store_memory": 80_000_000}
            output = folder / "other-node.txt"
            with other_node(cluster.address, output, mounts=mounts, environment=libraries, **node) as process:
                nodes = wait_for_nodes(ray, 2, 60)  # while it is joining
                assert [node.name for node in nodes] == [GOOD, BAD], output.read_text()
                yield Place(ray=ray, address=cluster.address, folder=folder, process=process)
        finally:
            ray.shutdown()
            cluster.shutdown()


def told(results: list[Result], name: str) -> dict[str, str]:
    """Failures of a check by node."""
    return {result.where: result.line for result in results if result.name == name and result.state == "failed"}


def states(results: list[Result]) -> dict[str, set[str]]:
    return {name: {r.state for r in results if r.name == name} for name in dict.fromkeys(r.name for r in results)}


def test_only_the_second_node_is_found_fault_with_and_each_fault_is_told(place: Place) -> None:
    results = place.look(*LARGE)

    assert {result.where for result in results if not result.ok} == {BAD}
    assert {name for name, found in states(results).items() if found == {"ok"}} == {"nodes", "room", "answer", "data"}
    for name, words in {
        "versions": [f"numpy 1.2.3 (here {version('numpy')}), project "],
        "network": [f"no interface has the address {BAD}", "lo has 127.0.0.1", "--node-ip-address"],
        "storage": [
            f"{place.folder}/runs/small/checkpoints is not the folder that the driver wrote to",
            "storage that all nodes share",
        ],
        # 20,000 images of 24 * 24 * 3 + 46 bytes for the replica that has room there, four batches at a time.
        "store": [
            "1 replica(s) may have 141.9 MB of batches under way here, and the object store holds 80.0 MB",
            "--object-store-memory=425760000",
        ],
    }.items():
        assert all(word in told(results, name)[BAD] for word in words), told(results, name)
    assert list((place.folder / "runs").iterdir()) == [], "nothing is left behind"
    # A run is refused with all of it at once.
    with pytest.raises(UserError) as refused:
        run.preflight(place.ray, place.plan(*LARGE), str(place.folder / "runs" / "checkpoints"))
    first, *lines = str(refused.value).splitlines()
    assert first == "4 thing(s) are wrong with the cluster; nothing was started:"
    names = ["versions", "network", "storage", "store"]
    assert [line.strip().split(": ")[:2] for line in lines] == [[name, BAD] for name in names]


def test_object_store_that_might_spill(place: Place) -> None:
    found = place.look("train.batch_size=20000", "cluster.window_batches=4")
    assert [(one.state, one.where) for one in found if one.name == "store"] == [("warning", GOOD), ("warning", BAD)]


@pytest.mark.parametrize(
    ("data", "nodes", "words"),
    [
        ("hidden", [BAD], ["no data set at"]),
        ("replaced", [BAD], ["is another data set there"]),
        ("cut", [GOOD, BAD], ["1 of 5 shards", "train-0000016.arrow has"]),
    ],
)
def test_data_sets_that_differ(place: Place, data: str, nodes: list[str], words: list[str]) -> None:
    found = told(place.look(data=data), "data")
    assert list(found) == nodes
    assert all(word in found[BAD] for word in words)


def test_a_node_that_has_not_joined(place: Place) -> None:
    [missing] = check_joined(place.ray, 3, wait_for_nodes(place.ray, 3, 0.5))
    assert not missing.ok
    assert f"2 of cluster.nodes = 3 nodes have joined ({GOOD}, {BAD}). Read /tmp/ray/" in missing.line
    assert f"`ray start --address={place.address}`" in missing.line
    config = load(SMALL, ["cluster.nodes=3", "cluster.start_timeout_seconds=0.3", "cluster.device=cuda"])
    with pytest.raises(UserError, match=r"cluster.device is cuda.*\n2 of cluster.nodes = 3 nodes have joined"):
        run.plan_for_cluster(place.ray, config, None)


def test_a_run_that_has_no_room(place: Place) -> None:
    nodes = alive_nodes(place.ray)
    # Five CPUs and three: two replicas of two columns on the first, one on the second, though there are CPUs for four.
    [result] = check_room(place.plan("cluster.replicas=4"), nodes)
    assert "4 replica(s) of 2 CPU(s) each, on one node, do not fit: 127.0.0.1 has 5 CPU(s)" in result.line
    [result] = check_room(place.plan("cluster.data_workers=5"), nodes)
    assert "the run needs 9 CPUs and the cluster has 8" in result.line
    assert check_room(place.plan("cluster.data_workers=4"), nodes)[0].ok


def test_links(place: Place) -> None:
    [result] = links.check_links(place.ray, place.plan(), alive_nodes(place.ray), one_node_too=False)
    assert result.state == "ok"
    assert all(name in result.what for name in (f"{GOOD} and {BAD}: ", f"within {GOOD}: ", f"within {BAD}: "))


def test_link_whose_other_end_stops(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "LINK_SECONDS", 3.0)
    monkeypatch.setattr(links, "TRIED_BYTES", 400_000_000)  # long enough to be caught
    nodes = alive_nodes(place.ray)
    over = threading.Event()

    def stop_one() -> None:
        while not over.is_set():
            for process in place.process.children(recursive=True):
                with contextlib.suppress(psutil.Error):  # one that has just ended
                    if "LinkProbe.measure" in " ".join(process.cmdline()):
                        process.suspend()
                        return
            time.sleep(0.05)

    thread = threading.Thread(target=stop_one)
    thread.start()
    try:
        monkeypatch.setattr(links, "step_bytes", lambda plan, inside: 0)
        found = links.check_links(place.ray, place.plan("network.columns=1"), nodes, one_node_too=False)
    finally:
        over.set()
        thread.join()
    broken = [result for result in found if not result.ok]
    assert broken and broken[0].where == f"{GOOD} and {BAD}"
    assert "did not come through over gloo within 3 s" in broken[0].line


def test_the_command_says_it_all(place: Place) -> None:
    command = (str(SMALL), "--check", "--address", place.address, "cluster.replicas=2", "cluster.nodes=3")
    settings = ("cluster.start_timeout_seconds=1", "cluster.cpus_per_data_worker=0.5")
    checked = Run(place.folder, "checked", arguments=(*command, *settings))
    assert checked.finish() == 2, checked.text
    for line in ("failed   nodes     2 of cluster.nodes = 3", "ok       room      ", f"failed   network   {BAD}: "):
        assert line in checked.text
    # The driver sends its own copy of the project, so only the libraries differ.
    assert f"failed   versions  {BAD}: numpy 1.2.3 (here " in checked.text
    assert "project" not in checked.text.split(f"versions  {BAD}")[1].splitlines()[0]
    assert "skipped  data      data/small is drawn when the run starts" in checked.text
    assert "within" in checked.text
    assert "Traceback" not in checked.text


def test_a_node_that_hangs_and_one_that_dies(place: Place) -> None:
    """The last of this module: it takes the second node away."""
    raylet = next(process for process in place.process.children(recursive=True) if process.name() == "raylet")
    raylet.suspend()
    try:
        found, hosts = run.look_at_nodes(place.ray, place.plan(), None, answer_seconds=3.0)
    finally:
        raylet.resume()
    [line] = told(found, "answer").values()
    assert "it gave no answer within 3 s" in line and [node.name for node in hosts] == [GOOD]
    raylet.kill()
    end = time.monotonic() + 60
    while len(alive_nodes(place.ray)) > 1:
        assert time.monotonic() < end
        time.sleep(0.1)
    [result] = check_joined(place.ray, 2, alive_nodes(place.ray))
    assert f"{BAD} had joined and died" in result.line


def test_one_node_is_soon_looked_at(tmp_path: Path) -> None:
    checked = finished(tmp_path, "checked", arguments=(str(SMALL), "--check"))
    assert "ok       links     within 127.0.0.1: " in checked.text
    assert checked.text.splitlines()[-1].startswith("preflight: 8 checks passed in ")
    assert not (tmp_path / "runs").exists()


def test_every_pair_of_nodes_once_and_each_node_once_in_a_round() -> None:
    one = Node(id="", address="", name="", devices=NodeDevices(gpus=0, cpus=1), store_bytes=0)
    for count in range(2, 8):
        rounds = [[{pair.first, pair.second} for pair in pairs] for pairs in links._rounds([one] * count)]
        pairs = {frozenset(pair) for pairs in rounds for pair in pairs}
        assert len(pairs) == sum(len(pairs) for pairs in rounds) == count * (count - 1) // 2
        assert all(len(set[int]().union(*pairs)) == 2 * len(pairs) for pairs in rounds)
