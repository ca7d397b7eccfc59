"""
The rows of the table of verdicts, as HTML.

There may be ten thousand, so they are made without a template, one a line, and short. All text is escaped here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import PurePosixPath
from typing import Any, Final

from pytest_longctx.measures import MEASURES
from pytest_longctx.reports.causes import anchor, unquoted
from pytest_longctx.units import duration, quantity

Row = Mapping[str, Any]

ALL_EVIDENCE: Final = 2_000
"""Number of verdicts above which the table shows only the reason, the TTFT and the prompt length of each."""

SIGNS: Final[Mapping[str, str]] = {"broken": "✗", "unmeasured": "?", "known": "●", "out of scope": "-", "holds": "✓"}
"""A sign for each verdict, so that colour is not the only difference."""
_RANK: Final = ("broken", "unmeasured", "known", "holds", "out of scope")
"""Order of the rows: what was judged comes before what was not."""


def table_rows(verdicts: Sequence[Row], causes: Mapping[int, str]) -> Iterator[str]:
    """Yield one HTML table row for each verdict, worst first. *causes*: anchor of the cause by the identity of a row."""
    few = len(verdicts) > ALL_EVIDENCE
    ranked = sorted(verdicts, key=lambda row: (_RANK.index(row["verdict"]), row["finding"]))
    taken = Counter[str]()
    for row in ranked:
        yield _line(row, _anchor(row, taken), causes.get(id(row), ""), few=few)


def _anchor(row: Row, taken: Counter[str]) -> str:
    """
    Return the anchor of a verdict's row: the finding's id for its first row, followed for others by the deployment and,
    if needed, a number.
    """
    name = anchor(row["finding"])
    taken[name] += 1
    if taken[name] > 1:
        name = f"{name}.{anchor(row['server'].get('deployment', '') or 'no-server')}"
        taken[name] += 1
        name = name if taken[name] == 1 else f"{name}.{taken[name]}"
    return name


def _line(row: Row, name: str, cause: str, *, few: bool) -> str:
    word, ttft_s = row["verdict"], row["measured"].get("ttft_s")
    tokens = row["measured"].get("prompt_tokens")
    time = "" if ttft_s is None else f' data-k="{ttft_s:.4g}"'
    cells = (
        f'<td><b class="{_class(word)}">{SIGNS[word]} {word}</b>',
        f"<td>{_flat(row['finding'])}" if few else f'<td><a href="#{name}">{_flat(row["finding"])}</a>',
        f"<td>{_what(row, cause, few=few)}",
        f"<td>{_flat(row['server'].get('deployment', ''))}",
        f"<td{time}>{'' if ttft_s is None else escape(duration(ttft_s))}",
        f"<td>{'' if tokens is None else f'{tokens:,.0f}'}",
    )
    marked = escape(" ".join(markers(row)))
    mark = f' data-m="{marked}"' if marked else ""
    return f'<tr id="{name}"{mark}>{"".join(cells)}'


def _class(word: str) -> str:
    return word.rsplit(maxsplit=1)[-1]


def _flat(text: str) -> str:
    return escape(" ".join(text.split()))


def _what(row: Row, cause: str, *, few: bool) -> str:
    why = row["why"] if row["verdict"] != "holds" else ""
    head = _flat(unquoted(why) or row["title"])
    if few:
        return head
    more = [
        f"<p>{_flat(row['title'])}" if why else "",
        f"<p>{_flat(row['why'])}" if row["why"] and unquoted(why) != " ".join(row["why"].split()) else "",
        f'<p>Cause: <a href="#{cause}">{cause}</a>' if cause else "",
        f'<p class="dim">{_flat(", ".join(filter(None, _source(row))))}',
        f'<p class="dim">{_flat(evidence(row))}' if row["measured"] else "",
    ]
    closed = "".join(f"{part}</p>" for part in more if part)
    return f"<details><summary>{head}</summary>{closed}</details>"


def _source(row: Row) -> Iterator[str]:
    yield row.get("status", "")
    yield f"source: {row['source']}" if row.get("source") else ""
    yield f"measured by {row['measured_by']}" if row.get("measured_by") else ""
    yield f"carried over from {row['carried']}" if row.get("carried") else ""


def evidence(row: Row) -> str:
    """Return the evidence in a verdict's row: every measured figure with its bounds."""
    bounds = row.get("bounds", {})
    return "; ".join(
        f"{name} {quantity(value, MEASURES[name].unit if name in MEASURES else '')}{_allowed(bounds.get(name))}"
        for name, value in row["measured"].items()
    )


def _allowed(bound: Row | None) -> str:
    return f" ({', '.join(f'{name} {value}' for name, value in bound.items())})".replace("_", " ") if bound else ""


def markers(row: Row) -> list[str]:
    """Return the markers in a verdict's row. For a results file without markers, return the folder of the test."""
    if row.get("markers"):
        return [str(part) for part in str(row["markers"]).split()]
    folder = PurePosixPath(row["test"].partition("::")[0]).parent.name
    return [folder] if folder else []
