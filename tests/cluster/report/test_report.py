"""The command from end to end: pages that stand alone, runs that are not complete, data that is gone, and bad input."""

import base64
import dataclasses
import html
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cluster import evaluate
from cluster.network import load_run
from cluster.report import __main__ as report
from cluster.report.kernels import draw_kernels, first_kernels
from tests.cluster.runs import Run
from tests.cluster.test_bad_input import refused
from workers.data.manifest import Manifest

torch.set_num_threads(1)

OUTSIDE = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}
"""Attributes by which a page may ask for something else."""


class Page:
    """What a page asks for, shows and says."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_text(encoding="utf-8")
        body = re.sub(r"<style>.*?</style>", "", self.source, flags=re.DOTALL)
        self.text = html.unescape(re.sub(r"<[^>]*>", "", body))
        self.tags: list[tuple[str, dict[str, str]]] = []
        unclosed: list[str] = []
        for end, tag, given in re.findall(r"<(/?)(\w+)([^>]*)>", body):
            if end:
                assert unclosed.pop() == tag
                continue
            attributes = re.findall(r'([\w:-]+)="([^"]*)"', given)
            self.tags.append((tag, {name: html.unescape(value) for name, value in attributes}))
            unclosed += [] if tag in ("img", "meta", "link") else [tag]
        assert not unclosed, f"never closed: {unclosed}"
        self.images = [given for tag, given in self.tags if tag == "img"]


def make(*command: str | Path, code: int = 0) -> None:
    assert report.main([str(part) for part in command]) == code


@pytest.fixture(scope="module")
def made(bold: Run, undisturbed: Run, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs, by ten views."""
    out = tmp_path_factory.mktemp("report") / "new" / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert evaluate.main([str(undisturbed.folder), "--views", "10", "--by-class"]) == 0
        make(undisturbed.folder, bold.folder, "--out", out, "--views", "10", "--batch", "100")
    return out


@pytest.fixture
def copied(undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder where there is no data set, as on another machine."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(undisturbed.folder, tmp_path / "copied"))


def test_page_holds_all_its_images_and_asks_for_nothing(made: Path) -> None:
    page = Page(made / "report.html")
    assert page.images
    for image in page.images:
        assert image["alt"], "an image without a text in its place"
        kind, encoded = image["src"].split(",", 1)
        assert kind in ("data:image/png;base64", "data:image/jpeg;base64")
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as opened:
            opened.load()
            assert [str(side) for side in opened.size] == [image["width"], image["height"]]
    asked = {value for _, given in page.tags for name, value in given.items() if name in OUTSIDE}
    assert all(value.startswith(("data:", "#")) for value in asked)
    ids = {given.get("id") for _, given in page.tags}
    assert {value[1:] for value in asked if value.startswith("#")} <= ids
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "http:" not in page.source and "https:" not in page.source


def test_page_shows_every_figure_and_table(made: Path, undisturbed: Run, bold: Run) -> None:
    page = Page(made / "report.html")
    for words in (
        "Figure 1", "Figure 3", "Left: predictions", "Right: nearest training images", "Table 1", "Table 2", "Sparse coding",
        "7 CNNs*", "What settings are worth", "colour share", "all 1,200 training images", "Where time went", "after 30 updates",
        "network.activation",
    ):  # fmt: skip
        assert words in page.text, words
    files = {path.name for path in made.iterdir()}
    wanted = ["figure1", "figure3", "figure3-bold", "figure4_left", "figure4_right", "errors", "loss", "rates", "speed"]
    assert {f"{name}.png" for name in (*wanted, "time", "colour")} | {"report.html", "report.json"} == files
    assert set(json.loads((made / "report.json").read_text())["files"]) == files
    # Eight predictions; five queries with six neighbours each.
    assert sum("Validation image" in image["alt"] for image in page.images) == 8
    assert sum("nearest number" in image["alt"] for image in page.images) == 30
    # Errors and kernels are those of the runs.
    numbers = json.loads((made / "report.json").read_text())["runs"][0]
    assert numbers["errors"]["1"]["top1"] == undisturbed.result()["validation"]["top1_error"]
    assert numbers["errors"]["10"]["images"] == undisturbed.result()["validation"]["images"]
    assert numbers["state"] == "complete"
    assert sum(numbers["time"].values()) == pytest.approx(1)
    for run, name in ((undisturbed, "figure3.png"), (bold, "figure3-bold.png")):
        kernels = first_kernels(load_run(run.folder))
        assert kernels is not None and kernels.shape == (16, 3, 5, 5)
        with Image.open(made / name) as drawn:
            np.testing.assert_array_equal(np.asarray(drawn), draw_kernels(kernels, 2))


def text_of(out: Path) -> str:
    return Page(out / "report.html").text


def test_run_that_was_cut_off_is_shown_and_said_to_be(copied: Path, folder: Path, tmp_path: Path) -> None:
    """Under a name with markup, which is shown as it is."""
    lines = (copied / "log.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["step"] <= 20 and json.loads(line)["kind"] != "end"]
    (copied / "log.jsonl").write_text("\n".join(kept) + "\n")
    (copied / "result.json").unlink()
    odd = copied.rename(tmp_path / "a<b>&$x$_^")
    make(odd, "--out", tmp_path / "out", "--no-neighbours", "--data", folder / "data" / "small")
    text = text_of(tmp_path / "out")
    assert "a<b>&$x$_^ ended before its end" in text
    assert "its log has come to step 20 of 30, and the network shown here has had 30 updates" in text
    assert "Left: predictions" in text and "Right: nearest" not in text


def test_without_the_data_set_figure_4_is_left_out_and_the_page_says_why(
    copied: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("not the report's")
    (out / "figure4_left.png").write_bytes(b"of an earlier report")
    (out / "report.json").write_text(json.dumps({"files": ["figure4_left.png", "../copied/config.yaml", "mine.txt"]}))
    make(copied, "--out", out)
    text = text_of(out)
    assert "Figure 4 is left out" in text and "no data set at data/small" in text and "Figure 3" in text
    assert not (out / "figure4_left.png").exists(), "an old picture beside a page that has none misleads"
    assert (out / "mine.txt").exists() and (copied / "config.yaml").exists()
    # Nor is another data set than the network's shown.
    other = Path(shutil.copytree(folder / "data" / "small", tmp_path / "other"))
    manifest = Manifest.load(other)
    dataclasses.replace(manifest, classes=manifest.classes[::-1]).write(other)
    make(copied, "--out", out, "--data", other)
    assert "is another one than the network was trained on" in text_of(out)


def test_images_of_few_training_images_and_another_choice(copied: Path, folder: Path, tmp_path: Path) -> None:
    data = ("--data", folder / "data" / "small")
    make(copied, "--out", tmp_path / "a", "--among", "50", *data)
    make(copied, "--out", tmp_path / "b", "--among", "50", "--seed", "1", *data)
    assert "50 of 1,200 training images" in text_of(tmp_path / "a")
    one, other = (json.loads((tmp_path / name / "report.json").read_text())["figure4"] for name in "ab")
    assert one["searched"] == 50
    assert [image["image"] for image in one["predicted"]] != [image["image"] for image in other["predicted"]]


def test_bad_input_is_one_error(
    capsys: pytest.CaptureFixture[str], copied: Path, undisturbed: Run, tmp_path: Path
) -> None:
    out, empty, file = tmp_path / "out", tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.write_text("")

    def told(run: Path, out: Path = out) -> str:
        return refused(capsys, [str(run), "--out", str(out)], module=report)

    assert "nowhere is not the folder of a run" in told(Path("nowhere"))
    assert "has no config.yaml" in told(empty)
    for wrong in (file, file / "x"):
        assert f"--out {wrong} cannot be written: {file} is a file" in told(copied, wrong)
    shutil.rmtree(copied / "checkpoints")
    assert "there is no checkpoint at" in told(copied)
    # A run to compare with needs none.
    make(undisturbed.folder, copied, "--out", out, "--no-neighbours")
    assert "copied is shown without its kernels: there is no checkpoint" in capsys.readouterr().err
    (copied / "config.yaml").write_text("name: [")
    assert "is not valid YAML" in told(copied)
    with pytest.raises(SystemExit) as ended:
        report.main(["runs/a"])
    assert ended.value.code == 2
