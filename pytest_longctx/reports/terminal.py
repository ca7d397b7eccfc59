"""Summary table at the end of a run: worst first, at most 80 columns."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from pytest_longctx.findings.verdicts import WORST_FIRST
from pytest_longctx.reports.properties import Entry
from pytest_longctx.units import duration

COLOURS = {"broken": "red", "unmeasured": "yellow", "known": "yellow", "out of scope": "cyan", "holds": "green"}
_WIDTH = 80


def table(found: Sequence[Entry], verbosity: int = 0) -> Iterator[tuple[str, str]]:
    """
    Return the lines of the table, each with its colour.

    Findings out of scope are grouped by reason. From *verbosity* 1 on they are listed one by one with the full reason.
    Below 0 only unexpected verdicts are listed.
    """
    ids = Counter(entry.finding for entry in found)
    for word in WORST_FIRST:
        rows = sorted(
            (entry for entry in found if entry.verdict == word),
            key=lambda entry: (entry.server.get("deployment", ""), entry.finding),
        )
        if verbosity < 0 and word in ("out of scope", "holds"):
            continue
        if word == "out of scope" and verbosity == 0:
            yield from ((line, COLOURS[word]) for line in _folded(rows))
            continue
        for entry in rows:
            name = entry.server.get("deployment", "") if ids[entry.finding] > 1 else ""
            line = _row(entry, f"{name}: " if name else "")
            yield from ((part, COLOURS[word]) for part in (_whole(line) if verbosity > 0 else [_cut(line)]))


def _folded(rows: Sequence[Entry]) -> Iterator[str]:
    reasons = Counter(entry.why for entry in rows)
    for why, count in sorted(reasons.items(), key=lambda each: (-each[1], each[0])):
        yield _cut(" ".join(f"{count:>7} out of scope {why}".splitlines()))


def _row(entry: Entry, where: str) -> str:
    ttft_s = entry.measured.get("ttft_s")
    took = f"TTFT {duration(ttft_s)}: " if ttft_s is not None and entry.verdict == "holds" else ""
    return " ".join(f"{entry.finding:<7} {entry.verdict:<12} {where}{took}{entry.why or entry.title}".splitlines())


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."


def _whole(line: str) -> list[str]:
    return textwrap.wrap(line, _WIDTH, subsequent_indent=" " * 21, drop_whitespace=True) or [""]


def resumed(found: Sequence[Entry]) -> Iterator[str]:
    """Return the verdicts that a resumed run took over, and those that it judged again with the reason."""
    carried = sum(bool(entry.carried) for entry in found)
    yield f"{carried} of {len(found)} carried over from the resumed run, {len(found) - carried} judged now"
    reasons: dict[str, list[str]] = {}
    for entry in found:
        if entry.again and not entry.carried:
            reasons.setdefault(entry.again, []).append(entry.finding)
    for why, ids in reasons.items():
        names = ", ".join(sorted(set(ids)))
        yield f"judged again, {why}: {names}"


def tally(found: Sequence[Entry]) -> str:
    """
    Count the entries by verdict.

    >>> tally([Entry("LC-0001", "holds"), Entry("LC-0002", "broken")])
    '1 broken, 1 holds'
    """
    counts = Counter(entry.verdict for entry in found)
    return ", ".join(f"{counts[word]} {word}" for word in WORST_FIRST if counts[word])
