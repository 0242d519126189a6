"""Puts small faults into the code, one by one, and runs the tests that are meant to see them.

python -m tests.mutation alexnet/loss.py workers/data    modules or folders of targets.toml
python -m tests.mutation --all --sample 30               thirty mutants of each module
python -m tests.mutation --planted                       the faults of planted.txt, each of which a test must see
python -m tests.mutation --planted "loss in bf16"         one of them

The code is copied; nothing here changes. A mutant counts as seen if a test fails, if the module cannot be imported, or if the
tests take four times as long as without it. Those that change nothing anyone could see are left out: equivalent.txt has
their lines of the output, and why.
"""

import argparse
import contextlib
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutation.mutants import mutants

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LEAST_LIMIT_SECONDS = 60.0


@dataclass
class Trial:
    """One fault and the tests that should see it. line: what is said of it."""

    file: str
    source: str
    tests: list[str]
    line: str
    seconds: float = 0.0
    seen: bool = False


def copy_of_the_code(folder: Path) -> None:
    files = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run(tests: list[str], folder: Path, limit_seconds: float) -> tuple[bool, float]:
    """(whether the tests failed or were cut off, seconds). A fork of this process, for that has imported torch."""
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            code = _tested(tests, folder)
        except BaseException:  # a module that cannot be imported counts as seen
            code = 1
        os._exit(code)
    status = None
    try:
        while status is None and time.monotonic() - started < limit_seconds:
            done, ended = os.waitpid(pid, os.WNOHANG)
            status = ended if done else None
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # the tests if they are not done, and what they may have left
        if status is None:
            os.waitpid(pid, 0)
    return status != 0, time.monotonic() - started


def _tested(tests: list[str], folder: Path) -> int:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(folder)
    # In CI Hypothesis draws the same examples every time.
    os.environ |= {"PYTHONPATH": str(folder), "CI": "true"}
    sys.path.insert(0, str(folder))
    for name in list(sys.modules):
        if name.split(".")[0] in ("tests", "configs", "alexnet", "workers", "cluster"):
            del sys.modules[name]
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    return int(pytest.main(["-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "-q", *tests]))


def put(file: Path, source: str, version: int) -> None:
    """version: the file's time. Python takes compiled code for that of any source of the same length and second."""
    file.write_text(source)
    os.utime(file, (version, version))


def attempt(trials: list[Trial], folder: Path) -> None:
    """Each in turn, told as it ends."""
    limits: dict[tuple[str, ...], float] = {}
    for number, trial in enumerate(trials, 1):
        key = tuple(trial.tests)
        if key not in limits:
            failed, seconds = run(trial.tests, folder, 3600)
            if failed:
                sys.exit(
                    f"error: without any fault these fail: {' '.join(trial.tests)}\n{(folder / 'output.txt').read_text()[-3000:]}"
                )
            limits[key] = max(LEAST_LIMIT_SECONDS, 4 * seconds)
        place = folder / trial.file
        whole = place.read_text()
        put(place, trial.source, number)
        trial.seen, trial.seconds = run(trial.tests, folder, limits[key])
        put(place, whole, 0)
        print(
            f"{number}/{len(trials)} {'seen  ' if trial.seen else 'UNSEEN'} {trial.seconds:6.1f} s  {trial.line}",
            flush=True,
        )


def mutations(wanted: list[str], everything: bool, sample: int, seed: int) -> tuple[list[Trial], Counter[str]]:
    """The trials, and how many mutants of each file are left out as equivalent."""
    targets: dict[str, list[str]] = tomllib.loads((HERE / "targets.toml").read_text())
    chosen = [
        file for file in targets if everything or any(file == one or file.startswith(f"{one}/") for one in wanted)
    ]
    if not chosen:
        sys.exit("error: none of these is in tests/mutation/targets.toml; it has " + ", ".join(targets))
    equivalent = (HERE / "equivalent.txt").read_text()
    trials, left_out = [], Counter[str]()
    for file in chosen:
        every = mutants((ROOT / file).read_text())
        some = random.Random(seed).sample(every, min(sample or len(every), len(every)))
        for one in sorted(some, key=lambda one: one.line):
            line = f"{file} | {one.old} | {one.new}"
            if f"{line} | " in equivalent:
                left_out[file] += 1
            else:
                trials.append(Trial(file, one.source, targets[file], line))
    return trials, left_out


def planted(names: list[str]) -> list[Trial]:
    trials = []
    for line in (HERE / "planted.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        name, file, old, new, tests = line.split(" | ")
        source = (ROOT / file).read_text()
        assert source.count(old) == 1, f"{name}: not once in {file}: {old}"
        if not names or name in names:
            trials.append(Trial(file, source.replace(old, new), tests.split(), f"{name}: {tests}"))
    return trials


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="files or folders of the code; with --planted, names of faults")
    parser.add_argument("--all", action="store_true", help="every module of targets.toml")
    parser.add_argument("--planted", action="store_true", help="the faults of planted.txt")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="N mutants of each module, chosen by --seed")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    trials, left_out = planted(given.what), Counter[str]()
    if not given.planted:
        trials, left_out = mutations(given.what, given.all, given.sample, given.seed)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in ("torch._dynamo.exc", "hypothesis", "pyarrow.fs", "ray"):  # for all the forks; they take seconds
        importlib.import_module(name)

    with tempfile.TemporaryDirectory() as folder:
        copy_of_the_code(Path(folder))
        attempt(trials, Path(folder))
    tried, seen = Counter(trial.file for trial in trials), Counter(trial.file for trial in trials if trial.seen)
    print("| file | tried | seen | equivalent | unseen |")
    for file, count in tried.items():
        print(f"| {file} | {count + left_out[file]} | {seen[file]} | {left_out[file]} | {count - seen[file]} |")
    return 0 if all(trial.seen for trial in trials) or not given.planted else 1


if __name__ == "__main__":
    sys.exit(main())
