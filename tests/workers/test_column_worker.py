"""What a column worker tells the driver while it trains."""

from configs.loader import load
from workers.column_worker import ColumnWorker
from workers.mesh import Mesh


def test_reports_are_kept_until_the_driver_has_them() -> None:
    mesh = Mesh(replicas=1, processes_per_replica=2, columns_per_process=1, device="cpu")
    worker = ColumnWorker(load(None), mesh, 0)

    def told(seen: int) -> list[int]:
        return [report["step"] for report in worker.status(seen, 0).reports]

    for step in range(5):
        worker._report({"kind": "train", "step": step})
    assert told(0) == [0, 1, 2, 3, 4] == told(0), "an answer may be lost"
    worker._report({"kind": "train", "step": 5})
    assert told(5) == [5]
    assert len(worker._reports) == 1, "a run of days does not keep them all"
    assert told(2) == [5], "a call that was given up comes after a later one"
    worker._report({"kind": "train", "step": 6})
    assert told(6) == [6]
    assert told(7) == []
