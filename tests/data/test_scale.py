"""The reading side at ImageNet's size: memory per row, and bytes read from the disk per byte used.

No speeds here; they stand with their commands in docs/measurements.md.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.made_up import manifest, many_rows
from workers.data.dataset import Dataset
from workers.data.shards import Record, write_shard

ROOT = Path(__file__).parents[2]
ROWS = 128_000
MOST_BYTES_PER_ROW = 100
"""Of memory that is a process's own: 32 for where each key and image lies, 8 for labels and checksums, 8 for two epochs' orders,
16 in passing while an order is sorted. ImageNet: 100 MB or so."""

PROGRAM = """
import json, sys
from pathlib import Path
from tests.data.made_up import config_of
from workers.data.data_worker import DataWorker
from workers.program import Request

def own_bytes():  # not the mapped shards: the page cache's pages are everyone's
    return 1024 * int(next(line for line in Path("/proc/self/status").open() if line.startswith("RssAnon")).split()[1])

def shards_open():
    return len({line.split()[-1] for line in Path("/proc/self/maps").open() if "/train-" in line})

rows, worker = int(sys.argv[2]), DataWorker(config_of(Path(sys.argv[1])), "small")
before, opened = own_bytes(), []
for start, count in ((0, 128), (128, 128), (rows - 64, 4096)):
    batch = worker.batch(Request(split="train", start=start, count=count))
    opened.append(shards_open())
own = own_bytes() - before
found = [int.from_bytes(image.tobytes()[:4], "little") for image in batch["images"]]
assert batch["labels"].tolist() == [row * 1000 // rows for row in found]
print(json.dumps({"bytes": own, "opened": opened}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_data_worker_grows_by_less_than_100_bytes_a_row(tmp_path: Path) -> None:
    """Over the edge of an epoch, when two orders are held, and with all shards open."""
    many_rows(tmp_path / "many", ROWS, shard_rows=512)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "many"), str(ROWS)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    # 128 of 250: some shards hold two of a batch's rows.
    assert 80 < found["opened"][0] < 128 and found["opened"][1] < 200, "a batch opens its own rows' shards, no more"
    assert found["opened"][2] == 250
    assert 0 < found["bytes"] < MOST_BYTES_PER_ROW * ROWS


def bytes_read() -> int:
    """By this process from disks; what came out of the page cache does not count."""
    return int(next(line for line in Path("/proc/self/io").open() if line.startswith("read_bytes:")).split()[1])


def drop_from_page_cache(folder: Path) -> None:
    for path in folder.glob("*.arrow"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the page cache cannot be emptied here")
@pytest.mark.parametrize("announced", [True, False])
def test_reading_rows_in_random_order_reads_little_else(tmp_path: Path, announced: bool) -> None:
    """From a cold page cache, a tenth of the rows in random order: whole pages are read, and nothing ahead of them."""
    rows, noise = 4000, np.random.default_rng(0).bytes(20_000)  # about as long as photographs of 256x256
    records = (Record(key=f"{row}", label=0, image=noise + bytes(row % 7)) for row in range(rows))
    info = write_shard(tmp_path / "train-0.arrow", records)
    dataset = Dataset(tmp_path, "train", manifest(256, [info]))
    dataset.key(0)
    drop_from_page_cache(tmp_path)
    chosen = np.random.default_rng(1).permutation(rows)[: rows // 10].tolist()
    before = bytes_read()
    used = 0
    for start in range(0, len(chosen), 50):
        if announced:
            dataset.will_need(chosen[start : start + 50])
        for row in chosen[start : start + 50]:
            stored = dataset.jpeg(row)
            used += len(stored)
            assert stored.sum() > 0  # touches every page
    read = bytes_read() - before
    if read == 0:
        pytest.skip("the temporary folder is not on a disk, so that nothing is read from one")
    assert 1.0 <= read / used < 1.3
