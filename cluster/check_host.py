"""`python -m cluster.check_host`: whether this machine has what a node of the cluster needs. `ray up` runs it on each of them."""

import importlib.metadata
import platform
import shutil
import socket
import sys
from pathlib import Path

from cluster.entry import run_entry
from cluster.options import command_parser
from configs.errors import UserError

PROJECT = Path(__file__).parents[1]
TOOLS = ("ray", "rsync", "flock", "setsid", "pgrep")
EXAMPLES = """\
examples:
  python -m cluster.check_host                                                    this machine
  ray exec ray_cluster.yaml 'cd ~/two-column-alexnet && python -m cluster.check_host'    the head
exit codes: 0 all is there, 2 something is missing
"""


def check_host(project: Path = PROJECT) -> str:
    """One line that says which versions are here.

    Raises UserError with everything that is missing or of another version than `project`'s pyproject.toml wants.
    """
    try:
        import tomllib
    except ImportError:
        raise UserError(
            f"{_here()} cannot be a node: Python 3.11 or newer is needed, the same on all machines"
        ) from None
    with (project / "pyproject.toml").open("rb") as file:
        wanted: list[str] = tomllib.load(file)["project"]["dependencies"]
    problems = {requirement: problem for requirement in wanted if (problem := _problem(requirement))}
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    advice = []
    if problems:
        packages = " ".join(f"'{requirement}'" for requirement in problems)
        advice.append(f"{sys.executable} -m pip install --constraint {project / 'constraints.txt'} {packages}")
    if absent:
        advice.append(f"install {', '.join(absent)} and have them on the PATH of a login shell")
    if advice:
        found = [*problems.values(), *(f"no program {tool}" for tool in absent)]
        raise UserError(f"{_here()} cannot be a node: {'; '.join(found)}. On that machine: {'; '.join(advice)}")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch", "numpy"))
    return f"{_here()}: {versions}"


def _here() -> str:
    return f"{socket.gethostname()} (Python {platform.python_version()} at {sys.executable})"


def _problem(requirement: str) -> str | None:
    """What is wrong with an installed package, or with its absence. Looks at versions, imports none of them."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return f"{requirement} is not known to be here"
    wanted = Requirement(requirement)
    try:
        version = importlib.metadata.version(wanted.name)
        extras = [Requirement(text) for text in importlib.metadata.requires(wanted.name) or []]
        for below in extras:
            if below.marker and any(below.marker.evaluate({"extra": extra}) for extra in wanted.extras):
                importlib.metadata.version(below.name)
    except importlib.metadata.PackageNotFoundError as error:
        return f"{requirement} needs {error.name}, which is missing"
    if not wanted.specifier.contains(version, prereleases=True):
        return f"{requirement} is wanted, {version} is here"
    return None


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command_parser("check_host", __doc__, EXAMPLES).parse_args(argv)

    def check() -> int:
        print(check_host())
        return 0

    return run_entry(check)


if __name__ == "__main__":
    sys.exit(main())
