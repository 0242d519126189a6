"""Figure 4 on the page: images with captions and bars of text, so that it can be read at any width."""

from collections.abc import Sequence

from cluster.report.figure4 import Figure4, Predicted, Query
from cluster.report.markup import Html, element, joined, paragraph, photo
from cluster.report.words import percent, probable, short_name

HEADING = "h3"


def predictions(found: Figure4, names: Sequence[str]) -> Html:
    views = "the centre view" if found.views == 1 else "ten views"
    right = sum(one.top[0][0] == one.label for one in found.predicted)
    among = sum(one.label in dict(one.top) for one in found.predicted)
    count, shown = len(found.predicted), len(found.predicted[0].top)
    most = (
        f"the network's {shown} most probable classes"
        if shown < len(names)
        else f"what the network says of all {shown} classes"
    )
    few = f", {among} among the {shown}" if shown < len(names) else ""
    key = element("span", class_="key", style="background:var(--true)")
    return joined(
        (
            element(HEADING, "Left: predictions"),
            paragraph(
                f"{count} validation images, drawn at random (one per class while there are classes left), with their true "
                f"labels below and {most} by {views}. The bar of the true label is ",
                key,
                f" red. {right} of {count} are right at once{few}; the errors of the whole validation set are "
                "in the tables.",
            ),
            element("ul", joined(_card(one, names) for one in found.predicted), class_="cards"),
        )
    )


def _card(one: Predicted, names: Sequence[str]) -> Html:
    label = names[one.label]
    best = names[one.top[0][0]]
    alt = f"Validation image {one.key} of class {label}; most probable by the network: {best}, {percent(one.top[0][1])}"
    bars = joined(
        element(
            "li",
            element("span", short_name(names[number])),
            element("b", probable(probability)),
            class_="true" if number == one.label else None,
            style=f"--p:{100 * probability:.1f}%",
            title=names[number],
        )
        for number, probability in one.top
    )
    return element(
        "li",
        photo(one.image_SSC, alt),
        element("span", short_name(label), class_="label", title=label),
        element("ul", bars, class_="bars"),
    )


def neighbours(found: Figure4, names: Sequence[str]) -> Html:
    """Nothing if they were not looked for."""
    if not found.queries:
        return Html("")
    keys = {one.key for one in found.predicted}
    others = "of the same " if any(query.key in keys for query in found.queries) else "other "
    alike = [one.label == query.label for query in found.queries for one in query.neighbours]
    searched = (
        f"all {found.searched:,} training images"
        if found.searched == found.training
        else f"{found.searched:,} of {found.training:,} training images"
    )
    damaged = f" {found.damaged:,} training images could not be read and are left out." if found.damaged else ""
    return joined(
        (
            element(HEADING, "Right: nearest training images"),
            paragraph(
                f"{len(found.queries)} {others}validation images (first) and the {len(found.queries[0].neighbours)} training "
                "images whose features are nearest: by Euclidean distance between the outputs of the last hidden layer, of the "
                f"centre view, compared with {searched}, without approximation. {sum(alike)} of {len(alike)} neighbours have the "
                f"query's label; labels of the others are red.{damaged}",
            ),
            joined(_query(query, names) for query in found.queries),
        )
    )


def _query(query: Query, names: Sequence[str]) -> Html:
    label = names[query.label]
    first = element(
        "li",
        photo(query.image_SSC, f"Query: validation image {query.key} of class {label}"),
        element("span", short_name(label, 20), title=label),
    )
    rest = joined(
        element(
            "li",
            photo(
                one.image_SSC,
                f"Training image {one.key} of class {names[one.label]}, nearest number {number} to {query.key}",
            ),
            element(
                "span",
                short_name(names[one.label], 20),
                class_=None if one.label == query.label else "different",
                title=f"{names[one.label]}, distance {one.distance:.4g}",
            ),
        )
        for number, one in enumerate(query.neighbours, 1)
    )
    return element("ul", first, rest, class_="neighbours")
