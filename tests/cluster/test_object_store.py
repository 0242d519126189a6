"""What the batches take of the object store while a real run goes on: one copy per node, inside the planned window."""

import re
from pathlib import Path

from cluster.dataset import dataset_size
from cluster.group import WorkerGroup
from cluster.plan import make_plan
from cluster.ray_session import ray_session
from configs.loader import load
from tests.cluster.runs import SMALL, Run


def test_one_copy_of_each_batch_inside_the_planned_window(undisturbed: Run, folder: Path, tmp_path: Path) -> None:
    config = load(SMALL, [f"data.path={folder / 'data' / 'small'}", "cluster.window_batches=3"])
    plan = make_plan(config, 0, dataset_size(config))
    objects, mib = 0, 0
    with ray_session(None, num_cpus=4, object_store_bytes=plan.object_store_bytes) as ray, WorkerGroup(plan) as group:
        from ray._private.internal_api import memory_summary

        running = group.train(str(tmp_path), None)
        address = ray.get_runtime_context().gcs_address
        while ray.wait(running, num_returns=len(running), timeout=0.02)[1]:
            told = memory_summary(address, stats_only=True)
            found = re.search(r"Plasma memory usage (\d+) MiB, (\d+) objects", told)
            assert found, told
            mib, objects = max(mib, int(found[1])), max(objects, int(found[2]))
        assert all(result["ended"] == "finished" for result in ray.get(running))
        counts = ray.get(group.columns[0].status.remote(0, 0)).feed_counts
    # Two columns read every batch; with a copy for each of them there would be twice as many objects.
    assert 2 <= objects <= 3
    assert mib <= plan.window_bytes / 2**20 + 1  # Ray rounds to whole MiB
    assert counts["batches_held"] == 3
