"""The page as a whole: its frame and its style. It asks the network for nothing, and holds no script."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.report.markup import Html, element, escaped, joined

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #ffffff; --line: #d5dae0; --shade: #f4f6f8;
  --accent: #1f5fa8; --true: #ffaaaa; --other: #b9c2ff; --wrong: #a8281e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa4ae; --paper: #14171a; --line: #363c43;
  --shade: #1d2226; --accent: #7fb2ec; --true: #8c3b3b; --other: #3d477f; --wrong: #f0897f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 4rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p, figcaption, .lead, ul.plain { max-width: 46rem; }
p { margin: .5rem 0; }
.lead, figcaption, .caption { color: var(--soft); }
a { color: var(--accent); }
nav { margin: 1rem 0; font-size: .93rem; line-height: 1.9; }
nav a { margin-right: 1.1rem; white-space: nowrap; }
figure { margin: 1rem 0; }
figure > img { display: block; max-width: min(100%, 46rem); height: auto; background: #fff; border-radius: 4px; }
figcaption { font-size: .9rem; margin-top: .4rem; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 0 1.5rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: separate; border-spacing: 0; font-size: .93rem; font-variant-numeric: tabular-nums; }
.caption { font-size: .9rem; margin: 1.2rem 0 -.4rem; }
th, td { padding: .32rem .9rem .32rem 0; text-align: left; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); white-space: normal; min-width: 6.5rem;
  max-width: 15rem; overflow-wrap: break-word; }
th { font-weight: 600; white-space: normal; vertical-align: bottom; }
.number { text-align: right; }
td.number { padding-left: .4rem; }
code { font-size: .88em; background: var(--shade); padding: .05rem .25rem; border-radius: 3px; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: var(--shade); padding: .8rem; border-radius: 4px; font-size: .82rem; line-height: 1.4; }
.note { border-left: 3px solid var(--accent); padding: .1rem 0 .1rem .8rem; margin: .8rem 0; max-width: 46rem; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--accent); }
.settings { margin: 0; padding: 0; list-style: none; }
.settings li { white-space: normal; min-width: 15rem; max-width: 26rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(46%, 14rem), 1fr)); gap: 1.4rem 1rem;
  padding: 0; margin: 1rem 0; list-style: none; }
.cards img, .neighbours img { display: block; width: 100%; height: auto; border-radius: 3px; background: #fff; }
img.small { image-rendering: pixelated; }
.label { display: block; font-weight: 600; font-size: .93rem; line-height: 1.3; margin: .35rem 0; text-align: center; }
.bars { list-style: none; margin: 0; padding: 0; font-size: .82rem; }
.bars li { display: flex; justify-content: space-between; gap: .4rem; margin: 2px 0; padding: .08rem .35rem; line-height: 1.35;
  background: linear-gradient(to right, var(--other) var(--p), transparent var(--p)); print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
.bars li.true { background: linear-gradient(to right, var(--true) var(--p), transparent var(--p)); font-weight: 600; }
.bars li span { min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars li b { font-weight: inherit; white-space: nowrap; }
.key { display: inline-block; width: .9em; height: .9em; border-radius: 2px; vertical-align: -.08em; }
.neighbours { display: grid; grid-template-columns: repeat(7, 1fr); gap: .5rem; padding: 0; margin: 0 0 1.1rem;
  list-style: none; font-size: .8rem; line-height: 1.25; text-align: center; }
.neighbours li:first-child { padding-right: .5rem; border-right: 1px solid var(--line); font-weight: 600; }
.neighbours span { display: block; margin-top: .25rem; }
.neighbours .different { color: var(--wrong); }
@media (max-width: 40rem) {
  th:first-child, td:first-child { max-width: 8.5rem; }
  .bars { font-size: .76rem; }
  .neighbours { grid-template-columns: repeat(6, 1fr); }
  .neighbours li { grid-column: span 2; }
  .neighbours li:first-child { grid-column: 1 / -1; border: 0; padding: .8rem 0 0; border-top: 1px solid var(--line); }
  .neighbours li:first-child img { width: 50%; margin: 0 auto; }
}
"""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Browsers are told to load nothing but what is inside the page."""


@dataclass(frozen=True, kw_only=True)
class Section:
    anchor: str
    title: str
    content: Html


def page(title: str, lead: object, sections: Sequence[Section]) -> str:
    """The whole file. Sections without content are left out."""
    shown = [section for section in sections if section.content]
    head = joined(
        (
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
            element("title", title),
            Html('<link rel="icon" href="data:,">'),
            Html(f"<style>{STYLE}</style>"),
        ),
        "\n",
    )
    links = joined((element("a", section.title, href=f"#{section.anchor}") for section in shown), "\n")
    body = joined(
        (
            element("h1", title),
            element("div", lead, class_="lead"),
            element("nav", links, aria_label="sections"),
            *(
                element("section", element("h2", section.title), section.content, id=section.anchor)
                for section in shown
            ),
        ),
        "\n",
    )
    content = joined((element("head", head), element("body", element("main", body))), "\n")
    return f'<!doctype html>\n<html lang="en">\n{escaped(content)}\n</html>\n'
