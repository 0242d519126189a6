"""TensorBoard's files, read with the format's own rules: length, checksum of the length, event, checksum of the event."""

import struct
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from cluster.tensorboard import TensorBoard
from tests.cluster.reports import end, evaluation, saved, start, train

RANKS = ("column r0 c0", "column r0 c1")


def checksum(data: bytes) -> int:
    """CRC-32C, bit by bit, masked as TFRecord files want it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(file: Path) -> list[Any]:
    data, found = file.read_bytes(), []
    while data:
        length, of_length = struct.unpack("<QI", data[:12])
        event, (of_event,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert (of_length, of_event) == (checksum(data[:8]), checksum(event))
        found.append(Event.FromString(event))
        data = data[16 + length :]
    return found


def scalars(file: Path) -> dict[tuple[str, int], float]:
    return {(value.tag, event.step): value.simple_value for event in events(file) for value in event.summary.value}


def test_what_reports_say_in_numbers(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path / "events", RANKS)
    sink.report(start())
    assert not (tmp_path / "events").exists(), "a run that never trains has no file"
    trained = train(20, data=(1.0, 0.5), exchange=(1.0, 1.5), loss=2.25)
    for report in (trained, evaluation(20), saved(20), end("finished", 20)):
        sink.report(report)
    [file] = (tmp_path / "events").iterdir()
    assert file.name.startswith("events.out.tfevents.")
    # It is there already: a run that is killed has what it reported.
    found = scalars(file)
    sink.close()
    expected = {
        "loss/train": 2.25, "loss/validation": 0.75, "top-1 error/train": 0.5, "top-1 error/validation": 0.4,
        "top-5 error/train": 0.25, "top-5 error/validation": 0.125, "rates/weights": 0.01, "rates/biases": 0.02,
        "speed/images per second": 256.0, "data wait/column r0 c0": 0.2, "data wait/column r0 c1": 0.1,
        "exchange wait/column r0 c0": 0.2, "exchange wait/column r0 c1": 0.3,
    }  # fmt: skip
    assert found == pytest.approx({(tag, 20): value for tag, value in expected.items()})


def test_a_run_that_goes_back_takes_back_what_it_had_reported(tmp_path: Path) -> None:
    """A restart from the checkpoint of step 20, after step 60: a new file says that steps from 40 on have not been."""
    sink = TensorBoard(tmp_path, RANKS)
    for step in (20, 40, 60, 40, 60):
        sink.report(train(step))
    sink.close()
    first, second = (events(file) for file in sorted(tmp_path.iterdir()))
    assert [event.step for event in first] == [20, 20, 20, 40, 60]
    assert [event.step for event in second] == [40, 40, 40, 60]
    for written in (first, second):
        assert written[0].file_version == "brain.Event:2"
        assert written[1].session_log.status == SessionLog.START


def test_a_full_disk_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = TensorBoard(tmp_path / "events", RANKS)
    (tmp_path / "events").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="events"):
        sink.report(train(20))
