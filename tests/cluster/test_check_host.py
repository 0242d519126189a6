"""What `ray up` asks on each machine before Ray is started there."""

import shutil
from pathlib import Path

import pytest

from cluster.check_host import PROJECT, check_host, main
from configs.errors import UserError


def test_machine_that_has_all_says_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")  # programs may be absent where tests run
    told = check_host(PROJECT)
    assert "ray 2." in told and "torch 2." in told and "Python 3." in told


def test_everything_that_is_missing_is_told_with_the_command_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\ndependencies = ['numpy>=1', 'ray<2', 'no-such-package>=3']\n")
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "rsync" else f"/usr/bin/{tool}")
    with pytest.raises(UserError) as caught:
        check_host(tmp_path)
    for words in (
        "ray<2 is wanted, 2.",
        "no-such-package",
        "no program rsync",
        "constraints.txt 'ray<2' 'no-such-package>=3'",
    ):
        assert words in str(caught.value)
    assert "numpy" not in str(caught.value)
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("error: ")
