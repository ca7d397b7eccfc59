"""
Verdicts as (name, value) pairs and back: the only module that knows the spelling.

The pairs travel as a test's ``user_properties``: pytest writes them into JUnit XML as ``<property>`` elements and carries
them across xdist; everything else here is read from them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_longctx.measures import MEASURES
from pytest_longctx.verdicts import Verdict

Pairs = Iterable[tuple[str, object]]

_STEM = "longctx."
FINDING = f"{_STEM}finding"
BOOT = f"{_STEM}boot"
REQUEST = f"{_STEM}request"
VITALS = f"{_STEM}vitals"
_BOUND = {"reference", "tolerance", "exactly", "at_least", "at_most"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One verdict as it was recorded."""

    finding: str
    verdict: str
    title: str = ""
    why: str = ""
    said: str = ""
    """The server's own words about a refusal or a failure."""
    status: str = ""
    source: str = ""
    """Where the finding was documented."""
    bounds: Mapping[str, Mapping[str, str | float]] = field(default_factory=dict)
    """What the finding allows of each figure, in the words of its file: reference, tolerance, at_most."""
    measured_by: str = ""
    """The tool that measured, where it was not this package's own client."""
    measured: Mapping[str, float] = field(default_factory=dict)
    server: Mapping[str, str] = field(default_factory=dict)
    """What was judged: deployment, engine, model, hardware, launcher, seed."""


def server_pairs(facts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What was judged, as pairs."""
    for name, value in facts.items():
        yield f"{_STEM}server.{name}", value


def verdict_pairs(verdict: Verdict) -> Iterator[tuple[str, str]]:
    """One verdict as pairs; a figure that was not observed has none."""
    stem = f"{_STEM}{verdict.finding.id}"
    yield FINDING, verdict.finding.id
    yield f"{stem}.verdict", verdict.word
    yield f"{stem}.title", verdict.finding.title
    yield f"{stem}.status", verdict.finding.status
    source = verdict.finding.source
    yield f"{stem}.source", ", ".join(str(part) for part in (source.document, source.where, source.date) if part)
    if verdict.finding.bounds:
        kept = {
            name: bound.model_dump(exclude_none=True, include=_BOUND) for name, bound in verdict.finding.bounds.items()
        }
        yield f"{stem}.bounds", json.dumps(kept)
    if verdict.why:
        yield f"{stem}.why", verdict.why
    if verdict.observation and verdict.observation.said:
        yield f"{stem}.said", verdict.observation.said
    if verdict.observation and verdict.observation.measured_by:
        yield f"{stem}.measured_by", verdict.observation.measured_by
    for name, value in (verdict.observation.metrics if verdict.observation else {}).items():
        if value is not None:
            yield f"{stem}.{name}", f"{value:.9g}"


def without(pairs: Pairs, finding: str) -> list[tuple[str, object]]:
    """*pairs* without what they say of *finding* and of the server, for a verdict that takes their place."""
    gone = (f"{_STEM}{finding}.", f"{_STEM}server.")
    return [(name, value) for name, value in pairs if not name.startswith(gone) and (name, value) != (FINDING, finding)]


def row_pair(kind: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """
    A row of results on its way there: *kind* is `BOOT`, `REQUEST` or `VITALS`.

    A boot is attached to the first test that used it, a request to the test that sent it.
    """
    return kind, json.dumps(row)


def entries(pairs: Pairs) -> list[Entry]:
    """Every verdict in *pairs*."""
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
        verdict=flat[f"{stem}verdict"],
        title=flat.get(f"{stem}title", ""),
        why=flat.get(f"{stem}why", ""),
        said=flat.get(f"{stem}said", ""),
        status=flat.get(f"{stem}status", ""),
        source=flat.get(f"{stem}source", ""),
        bounds=json.loads(flat.get(f"{stem}bounds", "{}")),
        measured_by=flat.get(f"{stem}measured_by", ""),
        measured={name: float(flat[f"{stem}{name}"]) for name in MEASURES if f"{stem}{name}" in flat},
        server=server,
    )


def rows(kind: str, pairs: Pairs) -> list[dict[str, Any]]:
    """Every row of this kind in *pairs*."""
    return [json.loads(str(value)) for name, value in pairs if name == kind]
