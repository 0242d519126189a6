"""Tables 1 and 2: the paper's errors, and for the rows that the given runs can speak to, ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.report.records import RunRecord

IMAGENET_CLASSES = 1000
IMAGES = {"ILSVRC-2010": 150_000, "ILSVRC-2012": 50_000}
"""Of 2010's test set and of 2012's validation set, on which the tables are."""
PRETRAINED_OF_7 = 2
"""The paper averages its five networks with two that were pre-trained (section 6)."""

Pair = tuple[float | None, float | None]
"""Top-1 and top-5 error, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Line:
    model: str
    paper: tuple[float | None, ...]
    """Table 1: top-1 and top-5 on the test set. Table 2: top-1 and top-5 on the validation set, top-5 on the test set."""
    ours: Pair = (None, None)
    by: str = ""
    """Which runs ours are of."""


TABLE1 = (
    ("Sparse coding", (0.471, 0.282)),
    ("SIFT + FVs", (0.457, 0.257)),
    ("CNN", (0.375, 0.170)),
    ("CNN, centre patch alone (footnote 5)", (0.390, 0.183)),
)
TABLE2 = (
    ("SIFT + FVs", (None, None, 0.262)),
    ("1 CNN", (0.407, 0.182, None)),
    ("5 CNNs", (0.381, 0.164, 0.164)),
    ("1 CNN*", (0.390, 0.166, None)),
    ("7 CNNs*", (0.367, 0.154, 0.153)),
)


def data_of(record: RunRecord) -> str | None:
    """ILSVRC-2010 or ILSVRC-2012 if the run was tested on what the tables are of; else None.

    As the data set says of its source, or else by the number of classes and of images.
    """
    images = record.tested[-1].images if record.tested else None
    for contest, wanted in IMAGES.items():
        said = record.source.startswith(contest.replace("-", ""))
        other = record.source.startswith("ILSVRC") and not said
        if record.classes == IMAGENET_CLASSES and images == wanted and not other:
            return contest
    return None


def table1(records: Sequence[RunRecord]) -> list[Line]:
    ours = {
        "CNN": _first(records, "ILSVRC-2010", 10),
        "CNN, centre patch alone (footnote 5)": _first(records, "ILSVRC-2010", 1),
    }
    return [_line(model, paper, ours.get(model)) for model, paper in TABLE1]


def table2(records: Sequence[RunRecord]) -> list[Line]:
    ours = {
        "1 CNN": _first(records, "ILSVRC-2012", 10),
        "1 CNN*": _first(records, "ILSVRC-2012", 10, pretrained=True),
        "5 CNNs": _ensemble(records, 5, pretrained=0),
        "7 CNNs*": _ensemble(records, 7, pretrained=PRETRAINED_OF_7),
    }
    return [_line(model, paper, ours.get(model)) for model, paper in TABLE2]


def _line(model: str, paper: tuple[float | None, ...], ours: tuple[Pair, str] | None) -> Line:
    return Line(model=model, paper=paper) if ours is None else Line(model=model, paper=paper, ours=ours[0], by=ours[1])


def _first(
    records: Sequence[RunRecord], contest: str, views: Literal[1, 10], *, pretrained: bool = False
) -> tuple[Pair, str] | None:
    """Of the first run that was trained and tested so, at its end if one was. pretrained: on more images before (asterisk)."""
    early = None
    for record in records:
        found = record.errors(views)
        before = record.config.train.init_from is not None
        if data_of(record) == contest and found is not None and before == pretrained:
            if not found.early:
                return (found.top1, found.top5), record.label
            early = early or ((found.top1, found.top5), f"{record.label}, {found.early}")
    return early


def _ensemble(records: Sequence[RunRecord], networks: int, *, pretrained: int) -> tuple[Pair, str] | None:
    """Of so many networks with equal weights, `pretrained` of them on more images before.

    Older evaluations do not say how many; none is then taken to be, for most networks are not.
    """
    for record in records:
        if data_of(record) != "ILSVRC-2012":
            continue
        for one in reversed(record.together()):
            alike = one.equal and (one.pretrained or 0) == pretrained
            if one.networks == networks and alike and one.views == 10 and one.images == IMAGES["ILSVRC-2012"]:
                early = f" ({one.early})" if one.early else ""
                return (one.top1, one.top5), f"{networks} networks, {record.label} among them{early}"
    return None
