"""What is said of figure 4 where there are few classes and few images."""

import numpy as np

from cluster.report.figure4 import Figure4, Neighbour, Predicted, Query
from cluster.report.figure4_shown import neighbours, predictions

IMAGE = np.zeros((8, 8, 3), np.uint8)


def figure4(classes: int, *, query: str) -> Figure4:
    top = tuple((number, 1 / classes) for number in range(min(classes, 5)))
    near = Neighbour(image_SSC=IMAGE, key="t", label=0, distance=1.0)
    return Figure4(
        predicted=(Predicted(image_SSC=IMAGE, key="v", label=0, top=top),),
        views=1,
        queries=(Query(image_SSC=IMAGE, key=query, label=0, neighbours=(near,)),),
        searched=1,
        training=1,
    )


def test_as_many_classes_are_named_as_are_shown() -> None:
    shown = predictions(figure4(10, query="w"), [f"c{number}" for number in range(10)])
    assert "the network's 5 most probable classes" in shown.replace("&#x27;", "'") and "1 among the 5" in shown
    shown = predictions(figure4(3, query="w"), ["a", "b", "c"])
    assert "all 3 classes" in shown and "among the" not in shown and "five" not in shown


def test_queries_are_others_only_where_there_are_others() -> None:
    names = ["a", "b", "c"]
    assert "1 other validation images" in neighbours(figure4(3, query="w"), names)
    assert "1 of the same validation images" in neighbours(figure4(3, query="v"), names)
