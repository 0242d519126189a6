"""Which checkpoints there are, which a run goes on from, and which are kept."""

import errno
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch.distributed as dist

from configs.errors import UserError
from tests.workers.columns import FILE, damage, holds, save_whole
from workers import checkpoint_store
from workers.checkpoint import VERSION, Checkpoint, Name
from workers.checkpoint_list import committed, list_checkpoints, newest_whole, prune


def steps(root: Path) -> list[tuple[int, bool]]:
    return [(found.step, found.evaluated) for found in committed(str(root))]


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def newest(root: Path, **options: Any) -> tuple[Checkpoint | None, list[str]]:
    """What a run would go on from, and what is said of it."""
    said: list[str] = []
    return newest_whole(str(root), said.append, **{"set_aside": True, **options}), said


def file_of(root: Path, step: int) -> Path:
    [file] = root.glob(f"step-{step:08d}*/*.safetensors")
    return file


@pytest.fixture
def three(alone: dist.ProcessGroup, tmp_path: Path) -> Path:
    for step in (10, 20, 30):
        save_whole(tmp_path, alone, step, keep=3)
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("step-00001234", (1234, True, 0)),
        ("step-00001234-before-evaluation", (1234, False, 0)),
        ("step-00001234-a12-before-evaluation", (1234, False, 12)),
        ("step-00001234-a2", (1234, True, 2)),
        ("step-123456789-a1", (123456789, True, 1)),
        ("damaged-step-00001234-a2", None),
        ("step-1", None),
        ("step-00001234-a2-copy", None),
    ],
)
def test_names(folder: str, name: tuple[int, bool, int] | None) -> None:
    found = Name.parse(folder)
    assert (found and (found.step, found.evaluated, found.attempt)) == name
    assert not found or not found.attempt or str(found) == folder


def test_later_names_are_greater() -> None:
    parts = [(5, False, 9), (5, True, 1), (5, True, 2), (6, False, 1)]
    names = [Name(step=step, evaluated=evaluated, attempt=attempt) for step, evaluated, attempt in parts]
    assert all(low < high for low, high in itertools.pairwise(names))


def test_the_newest_whole_one_is_taken_and_every_byte_is_read(three: Path) -> None:
    """Damage to older ones is nobody's concern."""
    damage(file_of(three, 10), "flipped")
    (three / "step-00000020-a1" / "state.json").write_text("")
    read: list[tuple[int, int]] = []
    found, said = newest(three, progress=lambda *now: read.append(now))
    size = file_of(three, 30).stat().st_size
    assert found is not None and found.step == 30 and read[-1] == (size, size) and not said


def without(field: str) -> Callable[[bytes], bytes]:
    return lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != field}).encode()


NOT_UNDERSTOOD = r"state\.json cannot be understood \(.*\)"


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        ("flipped", f"the checksum of {FILE} is not the one recorded when it was saved"),
        ("short", rf"{FILE} has [\d,]+ bytes instead of [\d,]+"),
        ("missing", f"{FILE} is missing"),
        (lambda text: text[: len(text) // 2], NOT_UNDERSTOOD),
        (lambda text: b"", NOT_UNDERSTOOD),
        (lambda text: b"[]", NOT_UNDERSTOOD),
        (without("files"), NOT_UNDERSTOOD),
        (without("step"), NOT_UNDERSTOOD),
    ],
)
def test_a_damaged_one_is_named_set_aside_and_the_one_before_it_taken(
    three: Path, harm: str | Callable[[bytes], bytes], why: str
) -> None:
    """harm: to its file, or to its state."""
    file, state = file_of(three, 30), three / "step-00000030-a1" / "state.json"
    if isinstance(harm, str):
        damage(file, harm)
    else:
        state.write_bytes(harm(state.read_bytes()))
    left = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    before = folders(three)
    found, said = newest(three, set_aside=False)
    assert found is not None and found.step == 20 and folders(three) == before, "who only reads moves nothing"
    assert "set aside" not in said[0] and "is damaged" in said[0]
    found, said = newest(three)
    assert found is not None and found.step == 20 and holds(found, 20)
    assert len(said) == 1 and re.fullmatch(
        rf"{three}/step-00000030-a1 is damaged: {why}; it is set aside as damaged-step-00000030-a1; "
        "the one before it that is whole is step-00000020-a1",
        said[0],
    )
    assert folders(three) == ["damaged-step-00000030-a1", "step-00000010-a1", "step-00000020-a1"]
    assert {path.name: path.read_bytes() for path in (three / "damaged-step-00000030-a1").iterdir()} == left
    assert newest(three) == (found, []), "it is told once"


def test_a_file_that_cannot_be_read_now_is_no_damage(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a server is away: nothing is moved, and nothing older is taken in its place."""
    file = file_of(three, 30)
    file.unlink()
    file.mkdir()
    before = folders(three)
    with pytest.raises(UserError, match=rf"{file.name} cannot be read now: Is a directory"):
        newest(three)
    stale = OSError(errno.ESTALE, "Stale file handle")
    monkeypatch.setattr(checkpoint_store.FolderStore, "read", Mock(side_effect=stale))
    with pytest.raises(OSError, match="Stale"):
        newest(three)
    assert folders(three) == before


def test_the_same_step_may_be_set_aside_twice(alone: dist.ProcessGroup, three: Path) -> None:
    for _ in range(2):
        damage(file_of(three, 30), "short")
        newest(three)
        save_whole(three, alone, 30, keep=3)
    assert folders(three)[:2] == ["damaged-2-step-00000030-a1", "damaged-step-00000030-a1"]
    assert steps(three)[-1] == (30, True)


def test_two_damaged_ones_fall_back_by_two_and_where_all_are_a_person_decides(three: Path) -> None:
    """To begin anew without a word would throw away days; and nothing is moved."""
    damage(file_of(three, 30), "missing")
    (three / "step-00000020-a1" / "state.json").write_text("{")
    found, said = newest(three, set_aside=False)
    assert found is not None and found.step == 10
    assert [text.split(" is damaged")[0] for text in said] == [f"{three}/step-000000{step}-a1" for step in (20, 30)]
    damage(file_of(three, 10), "short")
    before = folders(three)
    with pytest.raises(
        UserError, match=r"no checkpoint at .* is whole \(step-00000010-a1: .*step-00000030-a1: .*restore"
    ):
        newest(three)
    assert folders(three) == before


def test_another_version_is_for_a_person_to_settle(three: Path) -> None:
    file = three / "step-00000030-a1" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": VERSION + 1}))
    for look in (steps, newest):
        with pytest.raises(UserError, match="step-00000030-a1 was written by another version"):
            look(three)
    assert "step-00000030-a1" in folders(three)


def test_names_of_old_still_load_and_are_kept_like_others(alone: dist.ProcessGroup, tmp_path: Path) -> None:
    """Those of before names had attempts."""
    for step in (10, 20):
        folder = Path(save_whole(tmp_path, alone, step, evaluated=step == 10))
        folder.rename(folder.with_name(folder.name.replace("-a1", "")))
    assert folders(tmp_path) == ["step-00000010", "step-00000020-before-evaluation"]
    found, _ = newest(tmp_path)
    assert found is not None and (found.step, found.evaluated) == (20, False) and holds(found, 20)
    save_whole(tmp_path, alone, 20, evaluated=False, attempt=3)  # it is there: left alone
    save_whole(tmp_path, alone, 30, attempt=3)
    assert folders(tmp_path) == ["step-00000020-before-evaluation", "step-00000030-a3"]


def test_newest_are_kept(alone: dist.ProcessGroup, tmp_path: Path) -> None:
    """By step, not by name or date; of one step, the one with its evaluation done."""
    for step, evaluated, left in (
        (5, True, [(5, True)]),
        (10, False, [(5, True), (10, False)]),
        (10, True, [(10, False), (10, True)]),
        (100_000_000, True, [(10, True), (100_000_000, True)]),
    ):
        save_whole(tmp_path, alone, step, evaluated=evaluated)
        assert steps(tmp_path) == left
    assert folders(tmp_path) == ["step-00000010-a1", "step-100000000-a1"]
    assert holds(committed(str(tmp_path))[0], 10)


@pytest.mark.parametrize(
    ("saves", "settings", "left"),
    [
        ([1, 2, 3, 4], {"keep": 3}, [2, 3, 4]),
        # A run that was set back by hand goes on below those that were left lying: the one just saved is never pruned.
        ([50, 60, 55], {}, [55, 60]),
        ([50, 60, 55, 20], {}, [20, 55, 60]),
        # The best by the error of its own weights: those of steps 3 and 5 still carry the one of the evaluation before.
        ([(1, 0.5, 1), (2, 0.3, 2), (3, 0.3, 2), (4, 0.4, 4), (5, 0.1, 4), (6, 0.35, 6), (7, 0.31, 7)], {}, [2, 6, 7]),
        ([(1, 0.5, 1), (2, 0.3, 2), (3, 0.3, 2), (4, 0.4, 4)], {"keep_best": False}, [3, 4]),
        # Of two that are as good the later.
        ([(1, 0.2, 1), (2, 0.2, 2), (3, 0.9, 3), (4, 0.9, 4), (5, 0.9, 5)], {}, [2, 4, 5]),
    ],
)
def test_which_are_kept(
    alone: dist.ProcessGroup, tmp_path: Path, saves: list[Any], settings: dict[str, Any], left: list[int]
) -> None:
    """saves: steps, or (step, top-1 error that its state holds, step of that error)."""
    for save in saves:
        step, error, at = save if isinstance(save, tuple) else (save, None, None)
        facts = {} if error is None else {"errors": {"step": at, "top1_error": error}}
        save_whole(tmp_path, alone, step, facts=facts, **{"keep_best": True, **settings})
    assert [step for step, _ in steps(tmp_path)] == left


def test_leftovers_of_dead_attempts_go_and_those_of_a_later_one_stay(alone: dist.ProcessGroup, tmp_path: Path) -> None:
    """A process of attempt 2 that is still there, cut off from the others, must not take away what attempt 3 is writing."""
    unfinished = ["step-00000001", "step-00000002-a1", "step-00000003-a2", "step-00000004-a3"]
    for name in unfinished:
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_bytes(b"half of it")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "mine").mkdir()
    save_whole(tmp_path, alone, 10, attempt=2)
    assert folders(tmp_path) == ["mine", "notes.txt", "step-00000004-a3", "step-00000010-a2"]


def test_a_damaged_neighbour_stops_no_save_and_is_left_alone(alone: dist.ProcessGroup, three: Path) -> None:
    """It is told when a run would go on from it."""
    (three / "step-00000020-a1" / "state.json").write_text("{")
    save_whole(three, alone, 40)
    assert folders(three) == ["step-00000020-a1", "step-00000030-a1", "step-00000040-a1"]


def test_what_cannot_be_removed_is_told_and_stops_nothing(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(folder: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(shutil, "rmtree", refuses)  # root, who runs tests in containers, may remove anything
    said: list[str] = []
    prune(str(three), "step-00000030-a1", keep=2, keep_best=True, attempt=1, say=said.append)
    assert said == [f"{three}/step-00000010-a1 could not be removed: [Errno 1] Operation not permitted"]
    assert steps(three) == [(20, True), (30, True)], "without its state it is no checkpoint, whatever is left"


def test_a_listing_knows_what_each_folder_is(three: Path) -> None:
    (three / "step-00000020-a1" / "state.json").write_text("{")
    unfinished = three / "step-00000040-a2-before-evaluation"
    for folder in (unfinished, three / "damaged-2-step-00000005-a1", three / "else"):
        folder.mkdir()
    (unfinished / FILE).write_bytes(b"half of it")
    (unfinished / "state.json.0123abcd.tmp").write_text("{}")
    listing = list_checkpoints(str(three))
    assert [found.step for found in listing.committed] == [10, 30]
    assert [folder for folder, _ in listing.damaged.values()] == ["step-00000020-a1"]
    assert list(listing.unfinished.values()) == [unfinished.name]
    assert listing.set_aside == {"damaged-2-step-00000005-a1": Name(step=5, evaluated=True, attempt=1)}
    found, said = newest(three)
    assert found is not None and found.step == 30
    assert said == [f"{unfinished} was never finished, so it does not count"] and unfinished.is_dir()
