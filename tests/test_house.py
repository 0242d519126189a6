"""Rules of the house: who may import whom, what stays light to import, how long a file may be. Each test names all offenders."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("configs", "alexnet", "workers", "cluster")
"""From the ground up: each may import those before it and itself."""
LONGEST = 350
FILES = {
    str(file.relative_to(ROOT)): file.read_text()
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
}
FEED = "workers/data/feed.py"


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
    calls = [
        (node.lineno, ast.unparse(node.func)) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)
    ]
    opening = [
        f"{line}: {called}"
        for line, called in calls
        if called in ("open", "torch.load") or called.split(".")[-1] in ("save", "fromfile", "tofile", "memmap")
    ]
    return wrong_imports(source, {"pathlib", "io", "os", "shutil", "tempfile"}) + opening


def forbidden_in(name: str) -> set[str]:
    """Packages further up; and what is too heavy, or not this package's business."""
    package = name.split("/")[0]
    forbidden = {*PACKAGES[PACKAGES.index(package) + 1 :], "tests"}
    if package == "configs" or name.startswith("workers/data/"):
        forbidden |= {"torch", "ray"} - ({"ray"} if name == FEED else set())
    return forbidden | ({"ray"} if package == "alexnet" else set())


def test_the_rules_find_what_they_forbid() -> None:
    source = "import os\nif 1:\n    def f():\n        from ray.util import x\n        open('a')\n        torch.save(1, 'a')\n"
    assert wrong_imports(source, {"ray"}) == ["4: ray.util"]
    assert opened_files(source) == ["1: os", "5: open", "6: torch.save"]
    assert "importing json loads ['json']" in loaded(["ast", "json"], ["json"])
    assert {name.split("/")[0] for name in FILES} == set(PACKAGES) and FEED in FILES


def test_files_are_short_and_import_what_they_may() -> None:
    offenders = []
    for name, source in FILES.items():
        offenders += [f"{name}:{found} is imported" for found in wrong_imports(source, forbidden_in(name))]
        if name.startswith("alexnet/"):
            offenders += [f"{name}:{found} opens a file" for found in opened_files(source)]
        if (lines := len(source.splitlines())) > LONGEST:
            offenders.append(f"{name}: {lines} lines; a file is one concept, so move one of two out")
    assert not offenders, "\n".join(offenders)


def loaded(modules: list[str], heavy: list[str]) -> str:
    """Which of the heavy packages are loaded after importing each of the modules in turn, in a process of its own."""
    program = (
        "import importlib, sys\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    found = [name for name in {heavy!r} if name in sys.modules]\n"
        "    assert not found, f'importing {module} loads {found}'\n"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return process.stderr


def test_entry_points_and_the_data_path_start_without_torch_and_ray() -> None:
    """So that a mistake in a setting, and `--help`, do not take seconds; and so that data workers stay small."""
    entry_points = [
        name
        for name, source in FILES.items()
        if name.startswith("cluster/")
        and any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(source).body)
    ]
    data_path = [name for name in FILES if name.startswith("workers/data/")]
    assert len(entry_points) > 5 and len(data_path) > 5
    module_of = {name: name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in FILES}
    light = [module_of[name] for name in (*entry_points, *data_path, "cluster/run_tables.py") if name != FEED]
    assert not loaded(light, ["torch", "ray"])
    assert not loaded([module_of[FEED]], ["torch"])


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
