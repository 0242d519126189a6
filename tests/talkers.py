"""Processes that are told to go on at the same moment, line by line."""

import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[1]


class Talkers:
    """Starts these commands; use as a context manager, at whose end they are killed."""

    def __init__(self, *commands: list[str]) -> None:
        pipe = subprocess.PIPE
        self.processes = [subprocess.Popen(line, cwd=PROJECT, stdin=pipe, stdout=pipe, text=True) for line in commands]

    def say(self, *lines: str) -> list[str]:
        """Give each a line; returns the line that each answers."""
        for process, line in zip(self.processes, lines, strict=True):
            assert process.stdin is not None
            process.stdin.write(line + "\n")
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.flush()
        return [process.stdout.readline().rstrip("\n") for process in self.processes if process.stdout]

    def __enter__(self) -> "Talkers":
        return self

    def __exit__(self, *why: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
