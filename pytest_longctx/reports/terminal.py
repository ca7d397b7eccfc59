"""The table at the end of a run: worst first, one line for each finding, at most 80 columns."""

from collections import Counter
from collections.abc import Iterator, Sequence

from pytest_longctx.reports.record import Entry
from pytest_longctx.units import duration
from pytest_longctx.verdicts import WORST_FIRST

COLOURS = {"broken": "red", "unmeasured": "yellow", "known": "yellow", "out of scope": "cyan", "holds": "green"}
_WIDTH = 80


def table(found: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    """The lines of the table, each with its colour."""
    for word in WORST_FIRST:
        rows = (entry for entry in found if entry.verdict == word)
        for entry in sorted(rows, key=lambda entry: (entry.server.get("deployment", ""), entry.finding)):
            yield _row(entry), COLOURS[word]


def _row(entry: Entry) -> str:
    ttft_s = entry.measured.get("ttft_s")
    took = f"TTFT {duration(ttft_s)}: " if ttft_s is not None and entry.verdict == "holds" else ""
    line = " ".join(f"{entry.finding:<7} {entry.verdict:<12} {took}{entry.why or entry.title}".splitlines())
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."


def resumed(found: Sequence[Entry]) -> Iterator[str]:
    """What a run that resumes another took over, and what it asked again though it was judged, with the reasons."""
    carried = sum(bool(entry.carried) for entry in found)
    yield f"{carried} of {len(found)} carried over from the run that was resumed, {len(found) - carried} judged now"
    reasons: dict[str, list[str]] = {}
    for entry in found:
        if entry.again and not entry.carried:
            reasons.setdefault(entry.again, []).append(entry.finding)
    for why, ids in reasons.items():
        names = ", ".join(sorted(set(ids)))
        yield f"judged again, {why}: {names}"


def tally(found: Sequence[Entry]) -> str:
    """
    How many of each.

    >>> tally([Entry("LC-0001", "holds"), Entry("LC-0002", "broken")])
    '1 broken, 1 holds'
    """
    counts = Counter(entry.verdict for entry in found)
    return ", ".join(f"{counts[word]} {word}" for word in WORST_FIRST if counts[word])
