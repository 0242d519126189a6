"""Every command in the documents: its options exist, and what can be done here quickly is done.

RULES says what becomes of each: run (for real, in a folder with a trained run and a data set), plan (a training is planned
instead of run), or parse (only its options are looked at, and why). A command that no rule knows fails.
"""

import importlib
import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

import cluster.entry
from tests.cluster.runs import PROJECT, Run
from workers.data.pictures import draw_picture

DOCUMENTS = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "configs/README.md")),
    *sorted((PROJECT / "docs").glob("*.md")),
]
COMMANDS = ("train", "prepare", "evaluate", "predict", "export", "runs", "report", "reproduce", "timeline", "bench")

RULES: list[tuple[str, Literal["run", "plan", "parse"], str]] = [
    # (what the command matches, what becomes of it, why no more); the first that fits.
    (r"train .*--calibrate", "parse", "measures for half a minute; test_command.py does it at a small size"),
    (r"train .*--machine here\.yaml", "parse", "needs the file that --calibrate writes"),
    (r"train .*--plan", "run", ""),
    (r"train .*--(address|check)", "parse", "needs a Ray cluster; tests/hosts makes one"),
    (r"train .*--sink", "parse", "needs MLflow; test_sinks.py"),
    (r"train( |$)", "plan", "trains for minutes to days; test_train.py trains at a small size"),
    (
        r"prepare (imagenet|parquet|cifar10|tiny-imagenet)",
        "parse",
        "needs archives; test_prepare_archives.py makes some",
    ),
    (r"prepare upload", "parse", "needs a bucket; test_train.py has one"),
    (r"prepare (folder|verify|stats)", "run", ""),
    (r"evaluate runs/original(_2010)?( --views 10)?( --json errors.json)?$", "parse", "as runs/demo's, which is run"),
    (r"report runs/demo ", "run", ""),
    (
        r"(report|timeline)",
        "parse",
        "needs other runs, or the trace of one; test_report.py and test_traces.py have them",
    ),
    (r"reproduce", "parse", "takes hours; tests/cluster/reproduce does it at a small size"),
    (r"(evaluate|predict|export|runs)( |$)", "run", ""),
    (r"bench", "parse", "takes minutes; test_bench.py runs it at a small size"),
]
ELSEWHERE = ("tests.hosts.faults", "tests.cluster.soak", "tests.mutation")
"""They take a quarter of an hour, and root; or as long as one likes."""
SUBSTITUTES = {
    "[CONFIG.yaml]": "",
    "[key=value ...]": "",
    "NAME.yaml": "tanh.yaml",
    "$seed": "1",
    "data.path=...": "data.path=data/not-prepared",
    "data/imagenet ": "data/photos ",
    "PHOTO.jpg": "PHOTOS/train/class_0/0.jpg",
    "FOLDER": "PHOTOS/validation",
    "SOURCE": "PHOTOS",
    "network.classes=12": "network.classes=2",
}
"""What stands for something of the reader's, and what is there instead in these tests."""


def code(text: str) -> Iterator[str]:
    """Fenced blocks, line by line, and what stands between backticks."""
    fence = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for block in fence.findall(text):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", fence.sub("", text)))


def commands(text: str) -> Iterator[str]:
    """`python -m ...` and `make ...`, without what follows on the line: an explanation, another command."""
    for line in code(text):
        for found in re.findall(r"(?:python -m|(?<!\S)make) [^#;&|']+", line):
            command = re.split(r" {2,}", found.strip())[0]
            if re.match(r"python -m \w+\.\w+|make [a-z]+$", command):
                yield command


DOCUMENTED = sorted({command for file in DOCUMENTS for command in commands(file.read_text())})


def rule(command: str) -> tuple[Literal["run", "plan", "parse"], str] | None:
    arguments = command.removeprefix("python -m cluster.")
    return next(((what, why) for pattern, what, why in RULES if re.match(pattern, arguments)), None)


def filled_in(command: str) -> tuple[str, list[str]]:
    """(module, arguments), with something in place of what the reader puts there."""
    command += " "
    for placeholder, instead in SUBSTITUTES.items():
        command = command.replace(placeholder, instead)
    _, _, module, *arguments = shlex.split(command)
    return module, arguments


def loaded(module: str) -> Any:
    """What `python -m` runs: of a package, its `__main__`."""
    found = importlib.import_module(module)
    return importlib.import_module(f"{module}.__main__") if hasattr(found, "__path__") else found


def parse(module: str, arguments: list[str]) -> None:
    """Have the command parse its arguments and do no more."""
    reached: list[object] = []

    def instead(command: Callable[[], int], **more: object) -> int:
        reached.append(command)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster.entry, "run_entry", instead)
        if hasattr(loaded(module), "run_entry"):
            patch.setattr(loaded(module), "run_entry", instead)
        assert loaded(module).main(arguments) == 0, arguments
    assert reached, f"{arguments}: it ended before it had parsed its arguments"


@pytest.fixture(scope="module")
def home(undisturbed: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with PHOTOS in class folders, data/photos prepared from them, and a trained run by the documents' names."""
    folder = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("validation", 2)):
        for number in range(2):
            photos = folder / "PHOTOS" / split / f"class_{number}"
            photos.mkdir(parents=True)
            for place in range(count):
                Image.fromarray(draw_picture(96, number, rng)).save(photos / f"{place}.jpg")
    for made in ("runs", "data"):
        (folder / made).mkdir()
    for name in ("demo", *(f"original-{number}" for number in range(5))):
        (folder / "runs" / name).symlink_to(undisturbed.folder, target_is_directory=True)
    (folder / "data" / "small").symlink_to(undisturbed.folder.parents[1] / "data" / "small", target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert loaded("cluster.prepare").main(["folder", "PHOTOS", "--out", "data/photos"]) == 0
    return folder


@pytest.mark.parametrize("command", DOCUMENTED)
def test_commands_of_the_documents(command: str, request: pytest.FixtureRequest) -> None:
    if command.startswith("make"):
        assert re.search(rf"^{command.split()[1]}:", (PROJECT / "Makefile").read_text(), re.MULTILINE)
        return
    if command.split()[2] in ELSEWHERE:
        assert importlib.util.find_spec(command.split()[2]) is not None
        return
    found = rule(command)
    assert found is not None, "say in RULES whether it is run, planned or only parsed"
    what, why = found
    module, arguments = filled_in(command)
    if what == "parse":
        assert why
        parse(module, arguments)
        return
    home: Path = request.getfixturevalue("home")
    request.getfixturevalue("monkeypatch").chdir(home)
    if command.startswith("python -m cluster.prepare folder"):  # the fixture ran it as it stands
        assert (arguments[:2], arguments[-1]) == (["folder", "PHOTOS"], "data/photos")
        return
    assert loaded(module).main([*(["--plan"] if what == "plan" else []), *arguments]) == 0


KINDS = ("imagenet", "folder", "parquet", "cifar10", "imagenette", "tiny-imagenet", "verify", "stats", "upload")
HELPS = [*((name,) for name in COMMANDS), *(("prepare", kind) for kind in KINDS)]


@pytest.mark.parametrize("which", HELPS, ids=" ".join)
def test_examples_of_help(which: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        loaded(f"cluster.{which[0]}").main([*which[1:], "--help"])
    _, _, examples = capsys.readouterr().out.partition("examples:")
    told = re.sub(r"\\\n\s*", "", examples)
    lines = [line.strip() for line in told.splitlines() if re.match(r"\s*python -m cluster", line)]
    assert lines, "people learn a command from its examples"
    for line in lines:
        _, _, module, *arguments = shlex.split(re.split(r" {2,}", line)[0])
        parse(module, arguments)
