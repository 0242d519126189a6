"""Checkpoints: any split reads what any other wrote, bit by bit; what is not whole, or another network's, is refused."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from alexnet.network import AlexNet
from alexnet.optimizer import PaperSGD
from configs.errors import UserError
from configs.schema import Conv
from tests.alexnet.test_network import Silent
from tests.ranks import run_ranks
from tests.workers.columns import (
    NETWORK,
    SETTINGS,
    damage,
    differences,
    expected,
    make,
    network,
    save_whole,
    two_columns,
    two_replicas,
)
from workers.checkpoint import Checkpoint, load
from workers.checkpoint_list import committed

Ranks = tuple[Path, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ranks(alone: dist.ProcessGroup, tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """What a pair of column processes left on disk, and what they saw."""
    folder = tmp_path_factory.mktemp("columns")
    save_whole(folder / "whole", alone)
    return folder / "split", run_ranks(two_columns, 2, folder / "whole", folder / "split")


@pytest.fixture
def one(alone: dist.ProcessGroup, tmp_path: Path) -> Path:
    save_whole(tmp_path, alone)
    return tmp_path


def test_columns_load_what_one_process_saved_and_the_other_way(ranks: Ranks) -> None:
    assert [seen["from one process"] for seen in ranks[1]] == [[], []]
    model, optimizer = make()
    assert len(differences(model, optimizer, 30)) == 2 * 2 * 8, "else the comparison would say nothing"
    load(committed(str(ranks[0]))[-1], model, optimizer)
    assert differences(model, optimizer, 30) == []


def test_a_column_reads_its_own_file_alone(ranks: Ranks, tmp_path: Path) -> None:
    """From an object store the rest would come for nothing."""
    shutil.copytree(ranks[0], tmp_path, dirs_exist_ok=True)
    newest = committed(str(tmp_path))[-1]
    (Path(newest.folder) / "columns-00-to-00.safetensors").unlink()
    model, optimizer = make(1, Silent(2))
    load(newest, model, optimizer)
    assert differences(model, optimizer, 30) == []


def test_two_replicas_of_two_columns(ranks: Ranks, tmp_path: Path) -> None:
    """They load, and save replica 0 only; with them, how long they wait for each other, and what times they measure."""
    seen = run_ranks(two_replicas, 4, ranks[0], tmp_path)
    assert [rank["differences"] for rank in seen] == [[]] * 4
    assert [rank["name"] for rank in seen] == ["column r0 c0", "column r0 c1", "column r1 c0", "column r1 c1"]
    assert [rank["patience"] for rank in seen] == [[170, 170, 170, 1800]] * 4, "as configured"
    assert [rank["committed at return"] for rank in seen] == [[40]] * 4
    model, optimizer = make()
    load(committed(str(tmp_path))[-1], model, optimizer)
    assert differences(model, optimizer, 40) == []
    # Rank 3 has waited 0.75 s for data and 3 s for the exchange, out of 13 s; all know of all.
    assert [rank["times"]["by_rank"] for rank in seen] == [
        {
            "data_wait_seconds": [0.0, 0.25, 0.5, 0.75],
            "exchange_wait_seconds": [0.0, 1.0, 2.0, 3.0],
            "compute_seconds": [10.0, 9.75, 9.5, 9.25],
            "exchanged_bytes": [2**40] * 4,
        }
    ] * 4
    assert seen[3]["times"]["exchange_wait"] == 3 / 13


@pytest.mark.parametrize("full", [0, 1])
def test_a_save_that_fails_on_one_rank_fails_on_all_and_commits_nothing(ranks: Ranks, full: int) -> None:
    for seen in ranks[1]:
        assert seen[f"full on {full}"].startswith("the checkpoint could not be written")
        assert f"rank {full}: No space left on device" in seen[f"full on {full}"]
        assert f"rank {1 - full}" not in seen[f"full on {full}"]
        assert seen[f"left by {full}"] == [10]
        assert seen[f"remains of {full}"] == ["step-00000010-a1"], "what is of no use takes no room"
    # After that, and beside a damaged one, saving goes on.
    assert sorted(path.name for path in ranks[0].iterdir()) == ["step-00000005", "step-00000025-a1", "step-00000030-a1"]


def test_files_hold_numbers_and_json_only(ranks: Ranks) -> None:
    """Read here by hand: 8 bytes of length, a JSON header, and the rows as they are; nothing that could be code."""
    folder = Path(committed(str(ranks[0]))[-1].folder)
    files = [f"columns-0{column}-to-0{column}.safetensors" for column in range(2)]
    assert sorted(path.name for path in folder.iterdir()) == [*files, "state.json"]
    whole = expected(30)
    for column, entry in enumerate(json.loads((folder / "state.json").read_text())["files"]):
        data = (folder / entry["file"]).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        assert header.keys() - {"__metadata__"} == whole.keys() == entry["rows"].keys()
        for name, tensor in whole.items():
            start, stop = entry["rows"][name]
            first, last = header[name]["data_offsets"]
            found = np.frombuffer(data[8 + length + first : 8 + length + last], np.int32)
            assert header[name]["dtype"] == "F32"
            assert found.tobytes() == tensor[start:stop].contiguous().numpy().tobytes()
            # The first column has one more if they are odd in number: of 7 classes four.
            half = (len(tensor) + 1) // 2
            assert (start, stop) == ((0, half), (half, len(tensor)))[column]
    assert committed(str(ranks[0]))[-1].state["shapes"]["classifier.weights"] == [7, 16]


def test_where_one_lies_is_told_without_keys() -> None:
    at = Checkpoint(place="s3://bucket/run?secret_key=mine", name="step-00000001-a1", state={})
    lies = "s3://bucket/run/step-00000001-a1"
    assert (at.folder, at.location) == (lies, f"{lies}?secret_key=mine")


CONVS, DENSES = dict(NETWORK.convs), dict(NETWORK.denses)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"convs": CONVS | {"conv3": Conv(maps=18, kernel=3, padding=1, sees="all")}},
            r"conv3\.weights has shape \[16, 12, 3, 3\] there and has shape \[18, 12, 3, 3\] in this config",
        ),
        (
            {"convs": CONVS | {"conv2": Conv(maps=12, kernel=5, padding=2)}},
            r"conv2\.weights has shape \[12, 4, 3, 3\] there and has shape \[12, 4, 5, 5\]",
        ),
        ({"classes": 8}, r"classifier\.weights has shape \[7, 16\] there and has shape \[8, 16\]"),
        ({"denses": DENSES | {"fc8": DENSES["fc7"]}}, r"fc8\.weights does not exist there and has shape"),
        (
            {"denses": {name: dense for name, dense in DENSES.items() if name != "fc7"}},
            r"fc7\.weights has shape .* there and does not exist in this config",
        ),
    ],
)
def test_another_network_is_refused_before_anything_is_loaded(one: Path, change: dict[str, Any], message: str) -> None:
    model = AlexNet(network(**change), seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load(committed(str(one))[-1], model, PaperSGD(model, SETTINGS))
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_a_checkpoint_that_this_machine_does_not_see_is_not_called_damaged(ranks: Ranks, tmp_path: Path) -> None:
    newest = replace(committed(str(ranks[0]))[-1], place=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"does not see .*{newest.name}: is the storage mounted there"):
        load(newest, *make())


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "{file} is missing; take another"),
        ("short", "{file} has {less:,} bytes instead of {size:,}; take another"),
        ("flipped", "the checksum of {file} is not the one recorded when it was saved; take"),
    ],
)
@pytest.mark.parametrize("number", [0, 1])
def test_damaged_file_is_refused_by_name(ranks: Ranks, tmp_path: Path, kind: str, said: str, number: int) -> None:
    shutil.copytree(ranks[0], tmp_path, dirs_exist_ok=True)
    newest = committed(str(tmp_path))[-1]
    file = Path(newest.folder) / f"columns-{number:02d}-to-{number:02d}.safetensors"
    size = file.stat().st_size
    damage(file, kind)
    model, optimizer = make()
    said = f"{newest.name} is damaged: " + said.format(file=file.name, size=size, less=size - 1)
    with pytest.raises(UserError, match=re.escape(said)):
        load(newest, model, optimizer)
    # The one before it is as good as ever.
    load(committed(str(tmp_path))[-2], model, optimizer)
    assert differences(model, optimizer, 25) == []
