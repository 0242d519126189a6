"""Whole runs whose checkpoints are damaged, have no room, or lie in an object store that is lost on the way."""

import re
import shutil
from pathlib import Path

import pytest

from configs.loader import load, save
from tests.cluster.runs import Run, finished
from tests.s3 import BUCKET, Cable, S3Server
from workers.checkpoint_list import committed
from workers.stored_network import load_network


def test_a_damaged_newest_checkpoint_costs_its_steps_and_no_more(undisturbed: Run, folder: Path) -> None:
    """It is as if it had been killed after step 30 and the disk had lost half of the last file."""
    copy = Path(shutil.copytree(undisturbed.folder, folder / "runs" / "damaged"))
    save(load(copy / "config.yaml", ["name=damaged"]), copy / "config.yaml")
    (copy / "result.json").unlink()
    before, newest = sorted(copy.glob("checkpoints/step-*"))[-2:]
    file = next(newest.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    run = finished(folder, "damaged")
    told = [line for line in run.text.splitlines() if "damaged:" in line]
    assert len(told) == 1 and told[0].startswith(f"note: {newest} is damaged: {file.name} has ")
    assert f"continuing from {before}" in run.text
    assert (newest.parent / f"damaged-{newest.name}").is_dir()
    assert run.weights() == undisturbed.weights()


def test_a_full_disk_ends_the_run_and_leaves_what_there_is(undisturbed: Run, folder: Path, small_disk: Path) -> None:
    """There is room when the run is looked at before its start; somebody else takes it later."""
    run = Run(folder, "full", f"checkpoint.folder={small_disk}", "train.steps=2000", "train.evaluate_every_epochs=null")
    run.wait_for(lambda: len(list(small_disk.glob("full/step-*/state.json"))) >= 2)
    (small_disk / "somebody").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 20_000))
    assert run.finish() == 1 and "Traceback" not in run.text, run.text
    last = run.text.strip().splitlines()[-1]
    assert last.startswith("failed: column"), last
    assert "No space left on device" in last and "the ones before it are whole" in last
    found = re.search(
        rf"The last checkpoint is ({small_disk}/full/step-\d+-a1); the same command goes on from there$", last
    )
    assert found, last
    assert len(run.reports("attempt")) == 1, "the next would find the disk as full"
    config, model = load_network(found[1])
    assert config.name == "full" and model.columns == 2


@pytest.mark.ci
def test_an_object_store_that_is_lost_and_comes_back(undisturbed: Run, folder: Path) -> None:
    with S3Server() as server:
        cable = Cable(server.port)
        run = Run(folder, "lost", f"checkpoint.folder={server.url('runs', port=cable.port)}")
        run.wait_for_step(13)
        cable.cut()
        run.wait_for(lambda: "trying again: failure 1 of 5" in run.text)
        cable.mend()
        assert run.finish() == 0, run.text
        # Whichever was at it: the first rank may have written its part before.
        assert re.search(rf"\(rank [01]: s3://{BUCKET}/runs/lost/.* cannot be", run.text)
        assert re.search(rf"continuing from s3://{BUCKET}/runs/lost/step-000000(1|2)", run.text)
        newest = committed(server.url("runs/lost"))[-1]
        assert [file["sha256"] for file in newest.state["files"]] == undisturbed.weights()
        assert not (run.folder / "checkpoints").exists()
