"""The files for Prometheus and Grafana name metrics that there are, and alerts that fire when they should."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.metrics import METRICS

MONITORING = Path(__file__).parents[2] / "configs" / "monitoring"
EXPORTED = {f"ray_{name}" + ("_total" if about.kind == "counter" else ""): about for name, about in METRICS.items()}
AUTOMATIC = {"le", "alertname", "alertstate"}


def board() -> dict[str, object]:
    content: dict[str, object] = json.loads((MONITORING / "grafana" / "board.json").read_text())
    return content


def expressions() -> Iterator[str]:
    panels = board()["panels"]
    assert isinstance(panels, list)
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


@pytest.mark.parametrize("expression", sorted({*expressions()}))
def test_expressions_name_metrics_and_tags_that_there_are(expression: str) -> None:
    named = re.findall(r"(ray_\w+)(?:\{([^}]*)\})?", expression)
    assert named or "ALERTS" in expression
    for name, selector in named:
        tags = set(re.findall(r"(\w+)=", selector))
        assert name in EXPORTED and tags <= {"run", *EXPORTED[name].tags}, name


def test_every_metric_is_on_the_board() -> None:
    text = (MONITORING / "grafana" / "board.json").read_text()
    # Decoded images are a means of checking the others.
    assert {name for name in EXPORTED if name not in text} <= {"ray_alexnet_decoded_images_total"}


def test_the_board_asks_its_questions_in_order_and_its_panels_do_not_overlap() -> None:
    panels = board()["panels"]
    assert isinstance(panels, list)
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == [
        "Is it learning", "How fast", "What is it waiting for", "What failed", "When is it done",
    ]  # fmt: skip
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_prometheus_reads_ray_s_stable_list() -> None:
    [job] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Prometheus, is not installed")
@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml"), ("test", "rules", "rules.test.yml")],
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    ran = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
