"""Rules of the house: who may import whom, what stays light to import, and how long a file may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("configs", "alexnet", "workers", "cluster")
"""From the ground up: each may import those before it and itself."""
LONGEST = 350

FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
DATA_PATH = [file for file in FILES if file.is_relative_to(ROOT / "workers" / "data")]


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(source: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, also of those inside functions and conditions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports are not used here"
            yield node.lineno, node.module or ""


def wrong_imports(source: str, forbidden: set[str]) -> list[str]:
    """`line: module` of the imports of forbidden packages."""
    return [f"{line}: {module}" for line, module in imports(source) if module.split(".")[0] in forbidden]


def opened_files(source: str) -> list[str]:
    """`line: what` for everything that reads or writes files."""
    found = wrong_imports(source, {"pathlib", "io", "os", "shutil", "tempfile"})
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if (
                called == "open"
                or called.split(".")[-1] in ("save", "fromfile", "tofile", "memmap")
                or called == "torch.load"
            ):
                found.append(f"{node.lineno}: {called}")
    return found


def test_the_rules_find_what_they_forbid() -> None:
    source = "import os\nif 1:\n    def f():\n        from ray.util import x\n        open('a')\n        torch.save(1, 'a')\n"
    assert wrong_imports(source, {"ray"}) == ["4: ray.util"]
    assert opened_files(source) == ["1: os", "5: open", "6: torch.save"]


def test_all_packages_are_there() -> None:
    assert {file.relative_to(ROOT).parts[0] for file in FILES} == set(PACKAGES)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_down(file: Path) -> None:
    own = PACKAGES.index(file.relative_to(ROOT).parts[0])
    above = {*PACKAGES[own + 1 :], "tests"}
    assert not wrong_imports(file.read_text(), above)


@pytest.mark.parametrize("file", [file for file in FILES if file.is_relative_to(ROOT / "configs")], ids=name_of)
def test_configs_need_neither_torch_nor_ray(file: Path) -> None:
    assert not wrong_imports(file.read_text(), {"torch", "ray"})


@pytest.mark.parametrize("file", [file for file in FILES if file.is_relative_to(ROOT / "alexnet")], ids=name_of)
def test_alexnet_knows_no_ray_and_opens_no_files(file: Path) -> None:
    source = file.read_text()
    assert not wrong_imports(source, {"ray"})
    assert not opened_files(source)


@pytest.mark.parametrize("file", DATA_PATH, ids=name_of)
def test_data_path_imports_no_torch_and_only_its_feed_ray(file: Path) -> None:
    forbidden = {"torch"} if file.name == "feed.py" else {"torch", "ray"}
    assert not wrong_imports(file.read_text(), forbidden)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_are_short(file: Path) -> None:
    lines = len(file.read_text().splitlines())
    assert lines <= LONGEST, f"{lines} lines; a file is one concept, so move one of two out"


def loaded(modules: list[str], heavy: list[str]) -> str:
    """Which of the heavy packages are loaded after importing each of the modules, in a process of its own."""
    program = (
        "import importlib, sys\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    found = [name for name in {heavy!r} if name in sys.modules]\n"
        "    assert not found, f'importing {module} loads {found}'\n"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return process.stderr


def has_main(file: Path) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(file.read_text()).body)


ENTRY_POINTS = [file for file in FILES if file.is_relative_to(ROOT / "cluster") and has_main(file)]


@pytest.mark.parametrize("file", ENTRY_POINTS, ids=name_of)
def test_entry_points_start_without_torch_and_ray(file: Path) -> None:
    """So that a mistake in a setting, and `--help`, do not take seconds."""
    assert not loaded([module_of(file)], ["torch", "ray"])


def test_loading_is_noticed() -> None:
    assert "importing json loads ['json']" in loaded(["ast", "json"], ["json"])


def test_data_path_loads_no_torch_through_others() -> None:
    """All modules at once; a data worker is a process that should stay small."""
    feed = [module_of(file) for file in DATA_PATH if file.name == "feed.py"]
    others = [module_of(file) for file in DATA_PATH if file.name != "feed.py"]
    assert others
    assert not loaded(others, ["torch", "ray"])
    assert not loaded(feed, ["torch"])


def test_alexnet_needs_only_torch_and_numpy() -> None:
    program = """
import sys
for name in ("ray", "pydantic", "yaml", "pyarrow", "rich", "simplejpeg", "PIL", "safetensors", "psutil"):
    sys.modules[name] = None  # importing it raises ImportError
import torch
import alexnet.step, alexnet.schedule
from alexnet.network import AlexNet
from configs.schema import Conv, Network
network = Network(classes=4, input_size=12, convs={"conv1": Conv(maps=4, kernel=3)})
print(tuple(AlexNet(network)(torch.zeros(2, 3, 12, 12)).shape))
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "(2, 4)", ran.stderr
