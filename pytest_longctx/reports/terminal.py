"""Summary table at the end of a run: the worst verdicts first, and each cause once."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_longctx.findings.verdicts import WORST_FIRST
from pytest_longctx.reports.causes import Key, is_derived, missed, quoted, reason, sentence
from pytest_longctx.reports.properties import Entry
from pytest_longctx.units import duration

COLOURS = {"broken": "red", "unmeasured": "yellow", "known": "yellow", "out of scope": "cyan", "holds": "green"}
LEAST_WIDTH = 80
MOST_WIDTH = 160
"""Largest width of the table in columns; within this limit, the table is as wide as the terminal."""


def is_claim(entry: Entry) -> bool:
    """Return whether a verdict in the terminal's table is about a published figure and not about a server."""
    return entry.verdict != "out of scope" and not entry.server


def table(found: Sequence[Entry], verbosity: int = 0, width: int = LEAST_WIDTH) -> Iterator[tuple[str, str]]:
    """
    Yield the lines of the terminal's verdict table, each with its colour, and at most *width* columns wide.

    Published claims are not in it. Findings out of scope are grouped by reason.
    From *verbosity* 1 on they are listed one by one with the full reason.
    Below 0 only unexpected verdicts are listed.
    """
    found = [entry for entry in found if not is_claim(entry)]
    ids = Counter(entry.finding for entry in found)
    for word in WORST_FIRST:
        rows = sorted(
            (entry for entry in found if entry.verdict == word),
            key=lambda entry: (entry.server.get("deployment", ""), entry.finding),
        )
        if verbosity < 0 and word in ("out of scope", "holds"):
            continue
        if word == "out of scope" and verbosity == 0:
            yield from ((line, COLOURS[word]) for line in _folded(rows, width))
            continue
        for entry in rows:
            name = entry.server.get("deployment", "") if ids[entry.finding] > 1 else ""
            line = _row(entry, f"{name}: " if name else "")
            yield from (
                (part, COLOURS[word]) for part in (_whole(line, width) if verbosity > 0 else [_cut(line, width)])
            )


def _folded(rows: Sequence[Entry], width: int) -> Iterator[str]:
    reasons = Counter(reason(entry.why) for entry in rows)
    for why, count in sorted(reasons.items(), key=lambda each: (-each[1], each[0])):
        yield _cut(" ".join(f"{count:>7} out of scope {why}".splitlines()), width)


def claims(found: Sequence[Entry], width: int = LEAST_WIDTH) -> Iterator[tuple[str, str]]:
    """
    Yield the terminal lines about published claims, which need no server: the claims that do not hold, and the count by
    verdict.
    """
    its = [entry for entry in found if is_claim(entry)]
    if not its:
        return
    yield f"published claims, by arithmetic alone: {_counted(its)}", ""
    for entry in its:
        if entry.verdict != "holds":
            yield _cut(_row(entry, ""), width), COLOURS[entry.verdict]


def causes(
    told: Mapping[Key, Sequence[Entry]], boots: Mapping[str, Mapping[str, Any]], width: int = LEAST_WIDTH
) -> Iterator[str]:
    """
    Yield one terminal line for each cause of several failing verdicts, with the findings that fail for it.

    *boots*: the failed boots by deployment.
    """
    for key, entries in told.items():
        if len(entries) > 1:
            names = ", ".join(dict.fromkeys(entry.finding for entry in entries))
            lead = min(entries, key=lambda entry: is_derived(entry.why))
            said = f"one cause: {sentence(key, missed(lead.why), boots.get(key.deployment), quoted(lead.why))}: {names}"
            yield from textwrap.wrap(" ".join(said.split()), width, subsequent_indent="  ")


def _row(entry: Entry, where: str) -> str:
    ttft_s = entry.measured.get("ttft_s")
    took = f"TTFT {duration(ttft_s)}: " if ttft_s is not None and entry.verdict == "holds" else ""
    return " ".join(f"{entry.finding:<7} {entry.verdict:<12} {where}{took}{entry.why or entry.title}".splitlines())


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 3]}..."


def _whole(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, subsequent_indent=" " * 21, drop_whitespace=True) or [""]


def resumed(found: Sequence[Entry]) -> Iterator[str]:
    """
    Yield the terminal lines on a resumed run: how many verdicts were carried over, and which were judged again, with
    the reason.
    """
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
    Return the count of the entries by verdict for the terminal's last line, without published claims.

    >>> server = {"deployment": "tiny"}
    >>> tally([Entry("LC-0001", "holds", server=server), Entry("LC-0002", "broken", server=server)])
    '1 broken, 1 holds'
    """
    return _counted([entry for entry in found if not is_claim(entry)])


def _counted(found: Sequence[Entry]) -> str:
    counts = Counter(entry.verdict for entry in found)
    return ", ".join(f"{counts[word]} {word}" for word in WORST_FIRST if counts[word])
