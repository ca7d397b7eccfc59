"""
One results file as a self-contained HTML page: the answer first, then causes, verdicts and what was learnt.

The page loads nothing and is readable without JavaScript. Its only script may run by its hash, so foreign text can never run.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from pytest_longctx import paths
from pytest_longctx.errors import UsageError
from pytest_longctx.findings.verdicts import WORST_FIRST
from pytest_longctx.measures import MEASURES
from pytest_longctx.reports import causes
from pytest_longctx.reports.causes import Cause
from pytest_longctx.reports.compare import cells, compare
from pytest_longctx.reports.html import learnt, svg
from pytest_longctx.reports.html.headline import Tally, headline, is_claim, place, tally
from pytest_longctx.reports.html.verdict_rows import ALL_EVIDENCE, SIGNS, markers, table_rows
from pytest_longctx.reports.panels import panels
from pytest_longctx.reports.results import Results
from pytest_longctx.units import duration, quantity

Row = Mapping[str, Any]

MOST_CARDS: Final = 20
"""Causes that are explained in full; the others are one line each, up to `MOST_LINES`."""
MOST_LINES: Final = 300
MOST_OTHERS: Final = 60
"""Findings of one cause that are linked by name."""
MOST_LEARNT: Final = 400
MOST_CHANGES: Final = 400


def check() -> None:
    """Raise `UsageError` if Jinja2 is not installed. Called before a run, so that the report cannot fail afterwards."""
    try:
        import jinja2  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise UsageError(
            "a report needs Jinja2, which is not installed: pip install 'pytest-longctx[report]'"
        ) from None


def page(results: Results, baseline: Results | None = None) -> str:
    """Return the HTML page of a results file; with *baseline*, an earlier run, also the changes since that run."""
    check()
    from jinja2 import Environment, PackageLoader  # noqa: PLC0415 - an extra

    loader = PackageLoader("pytest_longctx.reports.html", ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(duration=duration)
    template = environment.get_template("report.html.j2")
    return template.render(**_answer(results, baseline), **_tables(results), **_assets(), paint=svg.paint)


def write(results: Results, path: Path, baseline: Results | None = None) -> None:
    """Write the HTML page of a results file to *path*."""
    paths.write(path, page(results, baseline))


def _assets() -> dict[str, str]:
    """Return the styles and the script of the HTML page, with the hash by which a browser accepts the script."""
    here = files("pytest_longctx.reports.html")
    style, script = (here.joinpath(f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return {"style": f"{style}{svg.STYLE}", "script": script, "digest": digest}


def _answer(results: Results, baseline: Results | None) -> dict[str, Any]:
    found = causes.causes(results)
    changes = None if baseline is None else compare(baseline, results)
    changed = [change for change in changes or () if change.word != "same"]
    figures = learnt.learnt(results)
    counted = tally(results)
    since = str(baseline.header["started"]) if baseline else ""
    return {
        "results": results,
        "title": _title(counted, place(results)),
        "headline": headline(results, found, changes, since),
        "labels": [(word, counted.words[word]) for word in WORST_FIRST if counted.words.get(word)],
        "signs": SIGNS,
        "cards": [_card(cause, results.header) for cause in found[:MOST_CARDS]],
        "lines": [_card(cause, results.header) for cause in found[MOST_CARDS:MOST_LINES]],
        "more_causes": max(0, len(found) - MOST_LINES),
        "changes": [cells(change) for change in changed[:MOST_CHANGES]] if baseline else None,
        "more_changes": max(0, len(changed) - MOST_CHANGES),
        "since": since,
        "remarks": causes.remarks(results),
        "thin": learnt.thinnest(figures),
        "disagreeing": [each for each in figures if each.disagrees],
        "learnt": figures[:MOST_LEARNT],
        "more_learnt": max(0, len(figures) - MOST_LEARNT),
        "percent": learnt.percent,
        "thin_share": learnt.THIN,
        "timed": learnt.TIMED,
        "verdict_rows": list(table_rows(results.verdicts, _anchors(found))),
        "shortened": len(results.verdicts) > ALL_EVIDENCE,
    }


def _title(counted: Tally, where: str) -> str:
    """Return the title of the HTML page, as shown in a browser tab."""
    word = next((word for word in ("broken", "unmeasured") if counted.words.get(word)), "holds")
    return f"{counted.words.get(word, 0)} {word}: {where}"


def _tables(results: Results) -> dict[str, Any]:
    deployments = sorted({row["server"].get("deployment", "") for row in results.verdicts} - {""})
    return {
        "deployments": deployments,
        "markers": sorted({name for row in results.verdicts for name in markers(row)}),
        "panels": list(panels(results)),
        "expected": list(_expected(results)),
        "outside": causes.by_reason(row for row in results.verdicts if row["verdict"] == "out of scope"),
        "claims": [row for row in results.verdicts if is_claim(row)],
        "servers": _servers(results),
        "anchor": causes.anchor,
    }


def _anchors(found: Sequence[Cause]) -> dict[int, str]:
    return {id(row): _name(cause) for cause in found[:MOST_LINES] for row in cause.rows}


def _name(cause: Cause) -> str:
    return causes.anchor("cause", *cause.key[:2], *cause.key.detail.split()[:4])


def _card(cause: Cause, header: Row) -> dict[str, Any]:
    """Return one cause as a card of the HTML page, in the form that the template needs."""
    rows = causes.rows_of(cause, header)
    # A log's path belongs beside the advice to read it; its lines are folded.
    told = [(word, text) for word, text in rows if word in _SHOWN or (word == "log" and "\n" not in text)]
    lead = cause.lead
    return {
        "name": _name(cause),
        "word": cause.word,
        "sentence": cause.sentence,
        "lead": lead["finding"] if lead else "",
        "title": lead["title"] if lead else "",
        "others": cause.findings[1 : MOST_OTHERS + 1],
        "more": max(0, len(cause.findings) - 1 - MOST_OTHERS),
        "rows": [(_SHOWN.get(word, word), text) for word, text in told if word != "again"],
        "again": dict(rows).get("again", ""),
        "folded": [row for row in rows if row not in told and row[0] not in _SHOWN],
    }


_SHOWN: Final[Mapping[str, str]] = {
    "asked": "asked",
    "seen": "seen",
    "allowed": "allowed",
    "because": "because",
    "sizes": "sizes",
    "tried": "tried",
    "do": "do",
    "try": "do",
    "again": "again",
}
"""Rows of an explanation that a card shows at once, by the word it shows; the others are folded."""


def _expected(results: Results) -> Iterator[dict[str, Any]]:
    for row, boot in causes.expected(results):
        yield {
            "finding": row["finding"],
            "title": row["title"],
            "deployment": row["server"].get("deployment", ""),
            "why": row["why"] or (f"the boot {boot['outcome']}, as documented" if boot else ""),
            "excerpt": (boot.get("explained") or boot.get("said", "")) if boot else row["said"],
        }


def _servers(results: Results) -> Sequence[tuple[Row, str]]:
    """Return every boot with its logged figures and events, for the HTML page."""
    return [
        (
            boot,
            "; ".join(
                [
                    *(
                        f"{name} {quantity(value, MEASURES[name].unit)}"
                        for name, value in boot.get("figures", {}).items()
                        if name in MEASURES
                    ),
                    *(f"{name} {value}" for name, value in boot.get("words", {}).items()),
                ]
            ),
        )
        for boot in results.boots
    ]
