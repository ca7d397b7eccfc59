"""
The answer of a run in one sentence: what holds and where, the changes since the baseline, and what is out of scope and
why.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_longctx.findings.verdicts import WORST_FIRST
from pytest_longctx.reports.causes import Cause, by_reason
from pytest_longctx.reports.compare import Change
from pytest_longctx.reports.results import Results

Row = Mapping[str, Any]


class Tally(NamedTuple):
    """
    The findings of a run, counted by their worst verdict. Published claims, which need no server, are counted
    separately.
    """

    words: Mapping[str, int]
    claims: int

    @property
    def judged(self) -> int:
        """Number of findings in the tally with a verdict other than out of scope."""
        return sum(count for word, count in self.words.items() if word != "out of scope")


def is_claim(row: Row) -> bool:
    """Return whether a verdict in the headline's tally is about a published figure and not about a server."""
    return row["verdict"] != "out of scope" and not row["server"]


def tally(results: Results) -> Tally:
    """Return the count of a run's findings for its headline, each counted once by its worst verdict."""
    worst: dict[str, str] = {}
    for row in results.verdicts:
        if not is_claim(row):
            words = (row["verdict"], worst.get(row["finding"], row["verdict"]))
            judged = [word for word in words if word != "out of scope"]
            worst[row["finding"]] = min(judged or words, key=WORST_FIRST.index)
    claims = {row["finding"] for row in results.verdicts if is_claim(row)}
    return Tally(Counter(worst.values()), len(claims))


def headline(results: Results, causes: Sequence[Cause], changes: Sequence[Change] | None, since: str = "") -> list[str]:
    """
    Return the headline of a run in one sentence. A run that is not green has a second sentence, so that the first
    states the cause alone.

    *changes* are those since a baseline that started at *since*; None without one.
    """
    counted = tally(results)
    first = _verdict(counted, place(results), causes)
    parts = []
    if known := counted.words.get("known"):
        parts.append(f"{known} {_fail(known)} as expected")
    if changes is not None:
        parts.append(_since(changes, since))
    parts += _out_of_scope(results, counted)
    if causes and parts:
        rest = "; ".join(parts)
        return [f"{first}.", f"{rest[0].upper()}{rest[1:]}."]
    return [f"{'; '.join([first, *parts])}."]


def _fail(count: int) -> str:
    return "fails" if count == 1 else "fail"


def _verdict(counted: Tally, where: str, causes: Sequence[Cause]) -> str:
    words, judged = counted.words, counted.judged
    broken, unmeasured = words.get("broken", 0), words.get("unmeasured", 0)
    if not judged and not causes:
        return f"No finding was judged on {where}"
    if not broken and not unmeasured and not causes:
        return f"{words.get('holds', 0)} of {judged} {_findings(judged)} {_hold(words.get('holds', 0))} on {where}"
    parts = [f"{broken} of {judged} {_findings(judged)} {'is' if broken == 1 else 'are'} broken"] if broken else []
    if unmeasured:
        parts.append(f"{unmeasured}{'' if broken else f' of {judged} findings'} could not be measured")
    told = " and ".join(parts) or "A boot failed"
    return f"{told} on {where}{_reasons(causes)}"


def _reasons(causes: Sequence[Cause]) -> str:
    if not causes:
        return ""
    if len(causes) == 1:
        count = len(causes[0].findings)
        return f"{', all' if count > 2 else ''}{' for one cause' if count > 1 else ''}: {causes[0].sentence}"
    return f", for {len(causes)} causes: {causes[0].sentence}, and {len(causes) - 1} more"


def _findings(count: int) -> str:
    return "finding" if count == 1 else "findings"


def _hold(count: int) -> str:
    return "holds" if count == 1 else "hold"


def place(results: Results) -> str:
    """Return the engine and the hardware of a run as text for its headline."""
    engines = sorted({boot.get("engine", "") for boot in results.boots} - {""})
    known = [name for name in engines if "unknown version" not in name] or engines
    engine = " and ".join(known[:2]) if known else results.header.get("backend") or "an unknown engine"
    return f"{engine}, {hardware(results.header)}"


def hardware(header: Row) -> str:
    """
    Return the hardware of a run as text for its headline.

    >>> hardware({"hardware": "cpu", "machine": {"host_cores": "2"}})
    '2 CPU cores'
    """
    name, machine = header.get("hardware", "unknown"), header.get("machine") or {}
    if name != "cpu":
        return str(name)
    cores = machine.get("host_cores")
    return f"{cores} CPU core{'' if cores == '1' else 's'}" if cores else "CPU"


def _since(changes: Sequence[Change], baseline: str) -> str:
    words = [change for change in changes if change.measure == "verdict" and change.word == "changed"]
    figures = [change for change in changes if change.measure != "verdict" and change.word == "changed"]
    since = f"since {baseline[:10]}" if baseline else "since the baseline"
    if not words and not figures:
        return f"nothing changed {since}"
    parts = [f"{len(words)} verdict{'' if len(words) == 1 else 's'}"] if words else []
    parts += [f"{len(figures)} figure{'' if len(figures) == 1 else 's'}"] if figures else []
    return f"{' and '.join(parts)} changed {since}"


def _out_of_scope(results: Results, counted: Tally) -> Iterator[str]:
    count = counted.words.get("out of scope", 0)
    if not count:
        return
    judged = {row["finding"] for row in results.verdicts if row["verdict"] != "out of scope"}
    rows = [row for row in results.verdicts if row["finding"] not in judged]
    (first, _), *others = by_reason(rows)
    _, _, plain = first.partition(": ")
    why = re.sub(r"^(.{110}).+", r"\1...", plain or first)
    more = f", and {len(others)} other reason{'' if len(others) == 1 else 's'}" if others else ""
    yield f"{count} out of scope: {why}{more}"
