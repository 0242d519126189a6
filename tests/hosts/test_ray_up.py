"""`ray up ray_cluster.yaml` from a laptop on three hosts, a training on them, a fault, and `ray down`. About two minutes."""

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.runs import SMALL
from tests.data.archives import TEST_DATA
from tests.hosts.hosts import PROJECT, Hosts

pytestmark = [pytest.mark.hosts, pytest.mark.ci]

NODES = """
import json, sys, time, ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
end = time.monotonic() + 60
while True:
    nodes = ray.nodes()
    alive = {node["NodeManagerAddress"]: node["Resources"] for node in nodes if node["Alive"]}
    dead = [node["NodeManagerAddress"] for node in nodes if not node["Alive"]]
    if [len(alive), len(dead)] == [int(count) for count in sys.argv[1:]] or time.monotonic() > end:
        break
    time.sleep(0.5)
threads = ray.get(ray.remote(num_cpus=2)(lambda: __import__("os").environ.get("OMP_NUM_THREADS")).remote())
print("nodes " + json.dumps([alive, dead, threads]))
"""
LEAVE_SECONDS = 200
"""After `ray down` workers leave by themselves: half a minute, and the time that it takes to look and to stop."""


@dataclass
class Cluster:
    hosts: Hosts
    yaml: Path
    shared: Path

    def laptop(self, command: str, seconds: float = 180) -> str:
        """Run a command line where the user sits: in the project's folder, on a host that is no part of the cluster."""
        return self.hosts.exec("laptop", "bash", "-c", f"cd {PROJECT} && {command}", seconds=seconds)

    def module(self, words: str, seconds: float = 180) -> str:
        """`python -m cluster.WORDS --address auto` on the head, from the laptop."""
        here = f"cd ~/two-column-alexnet && python -m cluster.{words} --address auto"
        return self.laptop(f"ray exec {self.yaml} '{here}'", seconds)

    def nodes(self, wanted: int, lost: int = 0) -> tuple[dict[str, tuple[float, float]], list[str], str]:
        """(CPUs and GPUs of living nodes by host, hosts of dead nodes, threads of a task with two CPUs).

        When there are as many as asked, or after a minute.
        """
        output = self.hosts.exec("head", "python", "-c", NODES, str(wanted), str(lost), seconds=120)
        [line] = [line for line in output.splitlines() if line.startswith("nodes ")]
        names = {self.hosts.address(name): name for name in self.hosts.names}
        alive, dead, threads = json.loads(line.removeprefix("nodes "))
        found = {names[address]: (has.get("CPU", 0), has.get("GPU", 0)) for address, has in alive.items()}
        return found, [names[address] for address in dead], threads


@pytest.fixture(scope="module")
def cluster(make_hosts: Callable[..., Hosts], tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    shared = tmp_path_factory.mktemp("shared")
    hosts = make_hosts(
        ["laptop", "head", "w1", "w2"],
        visible=[shared, *([TEST_DATA] if TEST_DATA.is_dir() else [])],
        # GPUs that Ray takes on trust, and a head that computes nothing.
        profiles={"head": {"ALEXNET_RAY_OPTIONS": "--num-cpus=0"}}
        | {name: {"ALEXNET_RAY_OPTIONS": "--num-cpus=2 --num-gpus=2"} for name in ("w1", "w2")},
    )
    # Exactly what the file asks its users to edit.
    text = (PROJECT / "ray_cluster.yaml").read_text(encoding="utf-8")
    for before, after in (
        ("head_ip: 127.0.0.1", f"head_ip: {hosts.address('head')}"),
        ("worker_ips: []", f"worker_ips: [{hosts.address('w1')}, {hosts.address('w2')}]"),
        ("ssh_user: ubuntu", "ssh_user: root"),
    ):
        assert text.count(before) == 1
        text = text.replace(before, after)
    yaml = shared / "ray_cluster.yaml"
    yaml.write_text(text, encoding="utf-8")
    made = Cluster(hosts, yaml, shared)
    made.laptop(f"(umask 077; ray get-auth-token --generate) && ray up -y {yaml}")
    return made


def test_all_hosts_join_with_what_their_profiles_say(cluster: Cluster) -> None:
    nodes, _, threads = cluster.nodes(3)
    assert nodes == {"head": (0, 0), "w1": (2, 2), "w2": (2, 2)}
    # `ray up` sets OMP_NUM_THREADS=1 in its shells, which would stay with everything that they start.
    assert threads == "2"


def test_dashboard_and_job_server_listen_on_loopback_only(cluster: Cluster) -> None:
    listening = cluster.hosts.exec("head", "ss", "-Hltn")
    assert re.findall(r"(\S+):8265\s", listening) == ["127.0.0.1"]
    outside = cluster.hosts.exec("w1", "bash", "-c", f"</dev/tcp/{cluster.hosts.address('head')}/8265", check=False)
    assert "Connection refused" in outside
    # Through ssh the laptop reaches it all the same, as `ray dashboard` does.
    address = cluster.hosts.address("head")
    forward = f"ssh -o StrictHostKeyChecking=no -f -L 8265:127.0.0.1:8265 root@{address} sleep 5"
    jobs = cluster.laptop(f"{forward} && ray job list --address http://127.0.0.1:8265")
    assert "Traceback" not in jobs


def test_columns_on_one_host_and_the_data_worker_on_another_train(cluster: Cluster) -> None:
    small = shutil.copy(SMALL, cluster.shared)
    settings = f"cluster.device=cpu runs_folder={cluster.shared}/runs data.path={cluster.shared}/small"
    output = cluster.module(f"train {small} {settings}")
    result = json.loads((cluster.shared / "runs/small/result.json").read_text(encoding="utf-8"))
    assert result["step"] == 30 and result["validation"]["images"] == 210
    assert len(set(re.findall(r"column r0 c\d: pid \d+ on ([\d.]+)", output))) == 1
    listed = cluster.hosts.exec("head", "ray", "list", "actors", "--detail", "--format", "json")
    actors: list[dict[str, Any]] = json.loads(listed[listed.index("[") :])
    columns, data_workers = (
        {actor["node_id"] for actor in actors if actor["class_name"] == kind} for kind in ("ColumnWorker", "DataWorker")
    )
    # Two columns fill their host, so the data worker is on the other one.
    assert len(columns) == len(data_workers) == 1 and columns != data_workers


def test_photos_are_prepared_by_both_hosts_and_trained_on(cluster: Cluster) -> None:
    source = TEST_DATA / "tiny-imagenet-100"
    if not source.is_dir():
        pytest.skip(f"no {source}: set ALEXNET_TEST_DATA to a folder that holds tiny-imagenet-100")
    data = cluster.shared / "photos"
    made = cluster.module(f"prepare parquet {source} --size 64 --out {data}")
    assert "train 50,000" in made, made
    settings = f"data.path={data} runs_folder={cluster.shared}/runs train.epochs=null train.steps=20"
    cluster.module(f"train tiny_imagenet.yaml cluster.device=cpu compute.fused=false {settings}", 600)
    result = json.loads((cluster.shared / "runs/tiny_imagenet/result.json").read_text(encoding="utf-8"))
    assert result["step"] == 20 and result["validation"]["images"] == 5000
    assert 4.3 < result["validation"]["loss"] < 5.0  # ln 100 is 4.6, and twenty steps teach little


def test_worker_whose_ray_was_killed_is_back_soon_and_once(cluster: Cluster) -> None:
    before = cluster.hosts.exec("w1", "pgrep", "-x", "raylet").split()
    cluster.hosts.exec("w1", "pkill", "-KILL", "-x", "raylet")
    # It may be back before anyone has seen it away, so what tells is the node that Ray holds for dead.
    alive, dead, _ = cluster.nodes(3, lost=1)
    assert set(alive) == {"head", "w1", "w2"} and dead == ["w1"]
    [after] = cluster.hosts.exec("w1", "pgrep", "-x", "raylet").split()
    assert [after] != before
    assert len([line for line in cluster.hosts.processes("w1").values() if "worker.sh --loop" in line]) == 1


def test_ray_down_leaves_nothing_running(cluster: Cluster) -> None:
    cluster.laptop(f"ray down -y {cluster.yaml}")
    end = time.monotonic() + LEAVE_SECONDS
    while (left := {name: cluster.hosts.processes(name) for name in cluster.hosts.names}) and any(left.values()):
        assert time.monotonic() < end, left
        time.sleep(1)
