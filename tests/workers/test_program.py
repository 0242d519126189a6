"""The program: the same walk for every replica, each image in its place, and the same tail from wherever it is taken up."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.loader import load
from configs.schema import Config
from tests.workers import by_hand
from workers.data.order import Order
from workers.program import Item, Program, Request


def programs(**settings: Any) -> list[Program]:
    """Of all replicas."""
    return [Program(replica=replica, **settings) for replica in range(settings["replicas"])]


@st.composite
def settings_of_runs(draw: st.DrawFn) -> dict[str, Any]:
    replicas = draw(st.integers(1, 3))
    return {
        "batch_size": replicas * draw(st.integers(1, 12)),
        "test_batch_size": draw(st.integers(1, 12)),
        "replicas": replicas,
        "train_rows": draw(st.integers(1, 40)),
        "validation_rows": draw(st.integers(1, 40)),
        "total_steps": draw(st.integers(1, 25)),
        "evaluation_every": draw(st.none() | st.floats(0.3, 30)),
    }


def all_items(program: Program, step: int = 0, *, evaluated: bool = False) -> list[Item]:
    return list(program.items(step=step, evaluated=evaluated))


@given(settings_of_runs())
def test_the_walks_of_all_replicas(settings: dict[str, Any]) -> None:
    """Of one shape, for they agree before each item on whether to stop, so a difference in number would be a deadlock.

    Training is consecutive, with each row once per epoch. Each evaluation sees every row once, also with fewer rows than
    replicas, and its last item alone ends it.
    """
    walks = [all_items(program) for program in programs(**settings)]
    shapes = [[(item.step, item.request.split, item.ends_evaluation) for item in walk] for walk in walks]
    assert all(shape == shapes[0] for shape in shapes)

    samples: list[int] = []
    training = [[item for item in walk if item.request.split == "train"] for walk in walks]
    for step, items in enumerate(zip(*training, strict=True)):
        for item in items:
            assert item.step == step + 1 and not item.ends_evaluation
            assert item.request.count == settings["batch_size"] // settings["replicas"]
            samples += range(item.request.start, item.request.start + item.request.count)
    assert samples == list(range(settings["total_steps"] * settings["batch_size"]))
    epochs, _, found = Order(3, settings["train_rows"]).at(np.array(samples))
    for epoch in range(len(samples) // settings["train_rows"]):
        assert found[epochs == epoch].tolist() == by_hand.order(3, epoch, settings["train_rows"])

    seen: dict[int, list[int]] = {}
    for walk in walks:
        for item, after in zip(walk, [*walk[1:], None], strict=True):
            tests = item.request.split == "validation"
            # Two evaluations never follow each other, for updates lie between them.
            assert item.ends_evaluation == (tests and (after is None or after.request.split == "train"))
            if tests:
                assert 0 <= item.request.count <= settings["test_batch_size"]
                rows = range(item.request.start, item.request.start + item.request.count)
                seen.setdefault(item.step, []).extend(rows)
    assert settings["total_steps"] in seen
    assert all(sorted(rows) == list(range(settings["validation_rows"])) for rows in seen.values())


@given(settings_of_runs(), st.integers(0, 25), st.booleans())
def test_resumed_walk_is_the_tail_of_the_whole(settings: dict[str, Any], step: int, evaluated: bool) -> None:
    step = min(step, settings["total_steps"])
    for program in programs(**settings):
        tail = [
            item
            for item in all_items(program)
            if item.step > step or (item.step == step and item.request.split == "validation" and not evaluated)
        ]
        assert all_items(program, step, evaluated=evaluated) == tail


def test_a_small_run_written_down() -> None:
    """5 validation rows over 2 replicas in batches of 2: 3 and 2 rows, and an empty item so that both have two."""
    settings = {
        "batch_size": 4, "test_batch_size": 2, "train_rows": 6, "validation_rows": 5, "total_steps": 3, "evaluation_every": 1.5,
    }  # fmt: skip
    first, second = (
        [(item.step, item.request.split, item.request.start, item.request.count) for item in all_items(program)]
        for program in programs(replicas=2, **settings)
    )
    assert first == [
        (1, "train", 0, 2), (2, "train", 4, 2), (2, "validation", 0, 2), (2, "validation", 2, 1),
        (3, "train", 8, 2), (3, "validation", 0, 2), (3, "validation", 2, 1),
    ]  # fmt: skip
    assert second == [
        (1, "train", 2, 2), (2, "train", 6, 2), (2, "validation", 3, 2), (2, "validation", 5, 0),
        (3, "train", 10, 2), (3, "validation", 3, 2), (3, "validation", 5, 0),
    ]  # fmt: skip


def config(batch_size: int = 10, **train: Any) -> Config:
    loaded = load()
    return dataclasses.replace(loaded, train=dataclasses.replace(loaded.train, batch_size=batch_size, **train))


@given(
    rows=st.integers(1, 300),
    batch_size=st.integers(1, 60),
    epochs=st.decimals("0.1", 12, places=1),
    every=st.decimals("0.1", 4, places=2),
)
def test_steps_and_evaluations_fall_where_the_epochs_say(rows: int, batch_size: int, epochs: Any, every: Any) -> None:
    """Exactly, against fractions: an evaluation comes with the first update that completes a multiple of `every` epochs."""
    asked = config(batch_size, epochs=float(epochs), evaluate_every_epochs=float(every))
    program = Program.of(asked, train_rows=rows, validation_rows=3, replica=0)
    steps = math.ceil(Fraction(epochs) * rows / batch_size)
    assert program.total_steps == steps
    gap = Fraction(every) * rows / batch_size
    due = {math.ceil(number * gap) for number in range(1, math.floor(steps / gap) + 2)}
    expected = [step for step in range(1, steps + 1) if step in due or step == steps]
    assert [item.step for item in all_items(program) if item.ends_evaluation] == expected


def test_epochs_that_divide_evenly_make_no_step_too_many() -> None:
    """41.7 updates 90 times are 3,753, though 90 * 41.7 is a little more in floats."""
    assert math.ceil(90 * 41.7) == 3754
    program = Program.of(config(epochs=90), train_rows=417, validation_rows=1, replica=0)
    assert program.total_steps == 3753


def test_imagenet_at_the_original_settings() -> None:
    """1,281,167 images are 10,009.1 batches of 128; the last step is the one that completes epoch 91."""
    program = Program.of(load("original.yaml"), train_rows=1_281_167, validation_rows=50_000, replica=0)
    assert program.total_steps == 910_830
    ends = [step for step in range(program.total_steps + 1) if program.evaluates_after(step)]
    assert len(ends) == 91
    assert ends[:2] == [10_010, 20_019] and ends[-2:] == [900_821, 910_830]
    assert program.epoch_at(10_010) == pytest.approx(1.00009, abs=1e-5)


def test_steps_instead_of_epochs_and_evaluation_at_the_end_only() -> None:
    asked = config(steps=7, epochs=None, evaluate_every_epochs=None, evaluate_batch_size=2)
    program = Program.of(asked, train_rows=15, validation_rows=4, replica=0)
    assert program.total_steps == 7
    assert [item.step for item in all_items(program) if item.request.split == "validation"] == [7, 7]
    assert all_items(program, 7, evaluated=True) == []
    assert [item.request.start for item in all_items(program, 7)] == [0, 2]
    # Nothing is left of a run that is beyond its end, as after training with fewer epochs than before.
    assert [item for item in all_items(program, 9, evaluated=True) if item.request.split == "train"] == []
    # An evaluation alone is that of the run.
    assert list(program.evaluation(7)) == [item for item in all_items(program) if item.step == 7][1:]


@given(settings_of_runs(), st.integers(1, 4))
def test_fewer_replicas_take_the_parts_of_all(settings: dict[str, Any], parts: int) -> None:
    """In the same order, and with the same images in each part."""
    many = dict(settings, replicas=settings["replicas"] * parts, batch_size=settings["batch_size"] * parts)
    few = dict(many, replicas=settings["replicas"], parts=parts)
    requests: list[dict[int, list[Request]]] = [{}, {}]
    for found, replicas in zip(requests, (many, few), strict=True):
        for item in (item for program in programs(**replicas) for item in all_items(program)):
            if item.request.split == "train":
                found.setdefault(item.step, []).append(item.request)
                assert replicas is many or (item.begins_step, item.ends_step) == (
                    item.part == 0,
                    item.part == parts - 1,
                )
    assert requests[0] == requests[1]


def test_replicas_in_the_mesh_count_not_those_in_the_config() -> None:
    config = load("original.yaml", ["cluster.replicas=4"])
    program = Program.of(config, train_rows=1280, validation_rows=10, replica=1, replicas=2)
    assert (program.replicas, program.parts) == (2, 2)
    first = next(program.items(step=0, evaluated=True))
    assert (first.request.start, first.request.count) == (64, 32)
