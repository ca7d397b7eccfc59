"""
The record of one verdict by name, and its conversion to and from JUnit properties.

Rows of the results file, such as a boot, travel beside the properties, under `ROWS`: readers of JUnit do not show JSON.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any

from pytest_longctx import toml
from pytest_longctx.findings.verdicts import Verdict
from pytest_longctx.measures import MEASURES

Pairs = Iterable[tuple[str, object]]

_STEM = "longctx."
ROWS = "longctx_rows"
"""The attribute of a test's report that carries rows, as pairs of kind and JSON; xdist transports it."""
FINDING = f"{_STEM}finding"
BOOT = f"{_STEM}boot"
REQUEST = f"{_STEM}request"
VITALS = f"{_STEM}vitals"
EXPLAINED = f"{_STEM}explained"
DRIFT = f"{_STEM}drift"
_WORDS = ("verdict", "title", "status", "source", "why", "said", "measured_by", "content", "carried", "markers")
"""Parts of a verdict that are text, by their field name in `Entry`."""
_HASH = "sha256:"
"""Before a hash: readers of JUnit files take one such as ``2066413249e4`` for a number."""
_FOUND = f"{_STEM}found"
_BOUND = {"reference", "tolerance", "exactly", "at_least", "at_most"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded verdict, as its JUnit properties contain it."""

    finding: str
    verdict: str
    title: str = ""
    why: str = ""
    said: str = ""
    """The server's own message about a refusal or a failure."""
    status: str = ""
    source: str = ""
    """The document that states the finding."""
    bounds: Mapping[str, Mapping[str, str | float]] = field(default_factory=dict)
    """Bounds of each figure as written in the finding: reference, tolerance, at_most."""
    measured_by: str = ""
    """The tool that measured; empty for this package's own client."""
    measured: Mapping[str, float] = field(default_factory=dict)
    server: Mapping[str, str] = field(default_factory=dict)
    """The judged server: deployment and its configuration, engine, model, hardware, launcher, seed."""
    content: str = ""
    """Hash of the judged finding."""
    carried: str = ""
    """Start of the run that judged, if a later run took the verdict over without sending requests."""
    again: str = ""
    """Reason why an earlier run's verdict was not taken over."""
    markers: str = ""
    """Markers of the finding, separated by spaces."""
    explained: str = ""
    """Rows that explain a verdict that does not hold: asked, seen, allowed, because, do, again. Not a property."""


def server_pairs(facts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the judged server as property pairs."""
    for name, value in facts.items():
        yield f"{_STEM}server.{name}", value


def verdict_pairs(verdict: Verdict) -> Iterator[tuple[str, str]]:
    """Yield one verdict as property pairs, without figures that were not observed."""
    finding, seen = verdict.finding, verdict.observation
    source = finding.source
    entry = Entry(
        finding=finding.id,
        verdict=verdict.word,
        title=finding.title,
        why=verdict.why,
        said=seen.said if seen else "",
        status=finding.status,
        source=", ".join(str(part) for part in (source.document, source.where, source.date) if part),
        bounds={name: bound.model_dump(exclude_none=True, include=_BOUND) for name, bound in finding.bounds.items()},
        measured_by=seen.measured_by if seen else "",
        measured={name: value for name, value in seen.metrics.items() if value is not None and isfinite(value)}
        if seen
        else {},
        content=toml.digest(finding),
        markers=" ".join(finding.markers),
    )
    yield from entry_pairs(entry)


def entry_pairs(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield a recorded verdict as property pairs, without missing fields."""
    stem = f"{_STEM}{entry.finding}"
    yield FINDING, entry.finding
    for name in _WORDS:
        if value := getattr(entry, name):
            yield f"{stem}.{name}", f"{_HASH}{value}" if name == "content" else value
    for measure, bound in entry.bounds.items():
        for side, limit in bound.items():
            yield f"{stem}.bounds.{measure}.{side}", str(limit)
    for name, value in entry.measured.items():
        yield f"{stem}.{name}", f"{value:.9g}"


def again_pair(finding: str, why: str) -> tuple[str, str]:
    """
    Return the reason why an earlier verdict on *finding* was not reused, as a property pair. The pair is separate
    because the verdict follows later.
    """
    return f"{_STEM}again.{finding}", why


def carried_pairs(row: Mapping[str, Any], since: str) -> Iterator[tuple[str, str]]:
    """
    Yield the verdict of a results *row* as property pairs, for a later run that keeps the verdict. *since* is the start
    of the run that judged it.
    """
    known = {each.name for each in fields(Entry)}
    kept = {name: value for name, value in row.items() if name in known}
    yield from server_pairs(row["server"])
    yield from entry_pairs(Entry(**{**kept, "carried": row.get("carried") or since}))


def without(pairs: Pairs, finding: str) -> list[tuple[str, object]]:
    """
    Return the property *pairs* without the entries of *finding* and of the server, for a verdict that
    replaces them.
    """
    gone = (f"{_STEM}{finding}.", f"{_STEM}server.")
    return [(name, value) for name, value in pairs if not name.startswith(gone) and (name, value) != (FINDING, finding)]


def row_pair(kind: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """
    Return a results row as a property pair; *kind* is `BOOT`, `REQUEST`, `VITALS`, `DRIFT` or
    `EXPLAINED`.

    A boot is attached to the first test that used it, a request to the test that sent it.
    """
    return kind, json.dumps(row)


def found_pair(deployment: str, prompt_tokens: int, places: Sequence[tuple[float, float]]) -> tuple[str, str]:
    """Return depth and score of every needle of one prompt as one property pair. A prompt can have 64 needles."""
    return _FOUND, json.dumps({"deployment": deployment, "prompt_tokens": prompt_tokens, "places": places})


def found(pairs: Pairs) -> Iterator[dict[str, Any]]:
    """Yield every needle position in the property *pairs*."""
    for prompt in rows(_FOUND, pairs):
        for depth, score in prompt["places"]:
            rest = {name: prompt[name] for name in ("deployment", "prompt_tokens")}
            yield {**rest, "depth": round(depth, 6), "score": score}


def entries(pairs: Pairs) -> list[Entry]:
    """Return every verdict in the property *pairs*."""
    known = list(pairs)
    flat = {name: str(value) for name, value in known}
    ids = dict.fromkeys(str(value) for name, value in known if name == FINDING)
    server = {
        name.removeprefix(f"{_STEM}server."): value
        for name, value in flat.items()
        if name.startswith(f"{_STEM}server.")
    }
    return [_entry(finding, flat, server) for finding in ids if f"{_STEM}{finding}.verdict" in flat]


def _entry(finding: str, flat: Mapping[str, str], server: Mapping[str, str]) -> Entry:
    stem = f"{_STEM}{finding}."
    return Entry(
        finding=finding,
        **{name: flat.get(f"{stem}{name}", "").removeprefix(_HASH if name == "content" else "") for name in _WORDS},
        bounds=_bounds(f"{stem}bounds.", flat),
        again=flat.get(again_pair(finding, "")[0], ""),
        measured={name: float(flat[f"{stem}{name}"]) for name in MEASURES if f"{stem}{name}" in flat},
        server=server,
    )


def _bounds(stem: str, flat: Mapping[str, str]) -> dict[str, dict[str, str | float]]:
    found: dict[str, dict[str, str | float]] = {}
    for name, value in flat.items():
        measure, _, side = name.removeprefix(stem).rpartition(".")
        if name.startswith(stem) and measure and side in _BOUND:
            found.setdefault(measure, {})[side] = value if side == "tolerance" else float(value)
    return found


def explained_pair(finding: str, text: str) -> tuple[str, str]:
    """Return the explanation of the verdict on *finding* as a property pair."""
    return row_pair(EXPLAINED, {"finding": finding, "text": text})


def rows(kind: str, pairs: Pairs) -> list[dict[str, Any]]:
    """Return all results rows of this *kind* in the property *pairs*."""
    return [json.loads(str(value)) for name, value in pairs if name == kind]


PLACES = ("test", "suite")
