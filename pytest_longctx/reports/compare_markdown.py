"""A comparison as Markdown, for a pull request and for a terminal."""

from collections import Counter
from collections.abc import Iterator, Sequence

from pytest_longctx.findings.verdicts import Line
from pytest_longctx.reports.analysis import Case
from pytest_longctx.reports.compare import Change, Word, unit_of
from pytest_longctx.reports.results import Results
from pytest_longctx.units import quantity

_SHOWN: tuple[Word, ...] = ("changed", "gone", "new")
_FACTS = ("engine", "model", "hardware")


def page(
    before: Results, after: Results, changes: Sequence[Change], missed: Sequence[tuple[Case, Line]]
) -> Iterator[str]:
    """The lines of the page: what is over its limit, what changed, and how much did not."""
    counts = Counter(change.word for change in changes)
    yield "## " + ", ".join(f"{counts[word]} {word}" for word in (*_SHOWN, "same"))
    yield f"\nBaseline of {before.header['started']}, run of {after.header['started']}."
    for name in _FACTS:
        old, new = (sorted({boot[name] for boot in run.boots if name in boot}) for run in (before, after))
        if old != new:
            yield f"\n{name}: {', '.join(old) or 'unknown'} before, {', '.join(new) or 'unknown'} now."
    if missed:
        yield "\n### Over the limit\n"
        yield from (f"- **{case.finding}** {case.deployment}: {line}" for case, line in missed)
    rows = [change for word in _SHOWN for change in changes if change.word == word]
    if rows:
        yield "\n| finding | deployment | figure | | before | after | worse by | noise |"
        yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
        yield from map(_row, rows)


def _row(change: Change) -> str:
    worse = "" if change.worse_by is None else f"{100 * change.worse_by:+.3g} %"
    values = (_said(change.measure, change.before), _said(change.measure, change.after))
    cells = (*change.case, f"`{change.measure}`", change.word, *values, worse, str(change.noise or ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _said(measure: str, value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else quantity(value, unit_of(measure))
