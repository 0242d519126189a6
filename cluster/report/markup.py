"""HTML as strings: text is escaped unless it is `Html` already, and pictures are part of the page."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL = 128
"""Images up to this many pixels a side go in without loss, and are enlarged in plain squares."""


class Html(str):
    """Text that is HTML."""

    __slots__ = ()


def escaped(text: object) -> Html:
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def joined(parts: Iterable[object], between: str = "") -> Html:
    return Html(between.join(escaped(part) for part in parts))


def element(name: str, *content: object, **attributes: object) -> Html:
    """Attributes that are called as Python's words have an underscore behind them: class_."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>{joined(content)}</{name}>")


def paragraph(*content: object) -> Html:
    return element("p", *content)


def picture(data: bytes, alt: str, *, class_: str | None = None) -> Html:
    """A PNG or JPEG inside the page, with its size, so that nothing moves while the page loads."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        (width, height), kind = image.size, str(image.format).lower()
    encoded = base64.b64encode(data).decode()
    look = "" if class_ is None else f' class="{class_}"'
    return Html(
        f'<img src="data:image/{kind};base64,{encoded}" width="{width}" height="{height}"{look} alt="{html.escape(alt)}">'
    )


def photo(image_SSC: "NDArray[np.uint8]", alt: str) -> Html:
    """An image of a data set."""
    from PIL import Image

    file, small = io.BytesIO(), max(image_SSC.shape[:2]) <= SMALL
    Image.fromarray(image_SSC).save(file, "PNG" if small else "JPEG", **({} if small else {"quality": 88}))
    return picture(file.getvalue(), alt, class_="small" if small else None)


def png(pixels: "NDArray[np.uint8]") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def figure(image: Html, caption: object) -> Html:
    return element("figure", image, element("figcaption", caption))


def table(
    headings: Sequence[object], rows: Iterable[Sequence[object]], *, words: Iterable[int] = (0,), caption: str = ""
) -> Html:
    """words: the columns that hold words; the others hold numbers, and stand to the right."""
    worded = set(words)

    def cells(kind: str, content: Sequence[object]) -> Html:
        return joined(
            element(kind, one, class_=None if number in worded else "number", scope="col" if kind == "th" else None)
            for number, one in enumerate(content)
        )

    head = element("thead", element("tr", cells("th", headings)))
    body = element("tbody", joined(element("tr", cells("td", row)) for row in rows))
    # What is wider than a telephone is moved with a finger, or with the keyboard; what is said of it stays.
    moved = element(
        "div", element("table", head, body), class_="scroll", tabindex="0", role="region", aria_label=caption or "table"
    )
    return joined((element("p", caption, class_="caption"), moved)) if caption else moved


def details(summary: object, *content: object) -> Html:
    return element("details", element("summary", summary), *content)
