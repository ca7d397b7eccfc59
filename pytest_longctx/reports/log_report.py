"""``longctx diagnose``: report the state of a server from its log."""

import argparse
import gzip
import json
import stat
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

from pytest_longctx import backends, paths
from pytest_longctx.deployments import deployment
from pytest_longctx.diagnosis.diagnose import Diagnosis, Evidence, State, assess
from pytest_longctx.diagnosis.engine_of_log import engine_of
from pytest_longctx.diagnosis.good_boots import differences
from pytest_longctx.diagnosis.log_file import read
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.signatures import PHASES, Catalogue
from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.finding import load_all as load_findings
from pytest_longctx.redaction import cleaned, shown

_CHUNK_BYTES: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_LONGEST: Final = 400
_MOST_FINDINGS: Final = 3
_SAYS: Final[Mapping[State, str]] = {
    "healthy": "booted and serves; the log shows no failure",
    "stopped": "booted, served and was stopped",
    "unfinished": "no failure; the log ends before the server is ready",
    "impaired": "serves or continues, but its log shows a fault",
    "failed": "failed",
}


@dataclass(frozen=True, slots=True)
class LogReport:
    """The report on one log: the engine, the state of its server, and the diagnosis of a failure."""

    name: str
    engine: str | None
    reading: LogReader
    state: State
    found: Diagnosis | None
    documented: tuple[Finding, ...] = ()
    """Shipped findings that document the same failure of the same engine."""

    @property
    def bad(self) -> bool:
        """Whether the log reports a failed server or a fault."""
        return self.state in ("failed", "impaired")

    def lines(self) -> Iterator[str]:
        """Yield the lines of the log report for a terminal."""
        version = self.reading.words.get("engine_version", "of unknown version")
        engine = f"{self.engine} {version}" if self.engine else "an engine that is not recognised"
        yield f"{self.name}: {engine}: {_SAYS[self.state]}"
        if self.found is not None:
            yield from self._failure(self.found)
        else:
            yield f"  phase    {self.reading.phase} ({PHASES[self.reading.phase]})"
        for entry, count in self.reading.benign():
            yield f"  notice   {entry.id} ({count} x): {entry.why}"
        for number, boot in enumerate(self._earlier(), 1):
            first = boot.cause or boot.summary
            if first is not None:
                yield f"  before   boot {number} in this log: {first.kind}: {first.line[:_LONGEST]}"

    def _failure(self, found: Diagnosis) -> Iterator[str]:
        yield f"  because  {found.cause[:_LONGEST]}"
        for word, text in found.rows():
            yield f"  {word:<8} {text[:_LONGEST]}"
        cause = self.reading.cause
        if cause is not None and (cause.rank or cause.process):
            yield f"  where    {' '.join(filter(None, (cause.process, cause.rank)))}"
        for each in self.documented[:_MOST_FINDINGS]:
            yield f"  alike    {each.id}: {each.title}"
        if found.signature is not None and (source := self._source(found.signature)):
            yield f"  source   {source}"
        if found.kind == "unknown":
            for line in self.reading.errors.before:
                yield f"  context  {line.rstrip()[:_LONGEST]}"
        yield f"  try      {found.remedy}"

    def _source(self, signature: str) -> str:
        """Return the source of the log line of *signature*: engine source, public report or measured boot."""
        return next((each.source for each in self.reading.catalogue.signature if each.id == signature), "")

    def _earlier(self) -> Iterator[Any]:
        for boots in self.reading.earlier.values():
            yield from (boot for boot in boots if boot is not self.reading.boot)

    def as_json(self) -> dict[str, Any]:
        """Return the log report as JSON data."""
        found, reading = self.found, self.reading
        cause = reading.cause
        return {
            "log": self.name,
            "engine": self.engine,
            "version": reading.words.get("engine_version", reading.version),
            "state": self.state,
            "phase": found.phase if found else reading.phase,
            "class": found.kind if found else None,
            "signature": found.signature if found else None,
            "because": found.cause if found else None,
            "confidence": found.confidence if found else None,
            "doubt": found.doubt if found else "",
            "try": found.remedy if found else None,
            "alike": [each.id for each in self.documented],
            "source": self._source(found.signature) if found and found.signature else "",
            "sizes": dict(found.sizes) if found else {},
            "process": cause.process if cause else "",
            "rank": cause.rank if cause else "",
            "evidence": list(found.evidence) if found else [],
            "first_error": reading.errors.text or reading.errors.complaint,
            "context": list(reading.errors.before),
            "figures": dict(reading.figures),
            "words": dict(reading.words),
            "notices": dict(reading.notices),
        }


def add(subcommands: Any) -> None:
    """Add the subcommand ``longctx diagnose``, which reports on logs, to the console parser."""
    parser = subcommands.add_parser(
        "diagnose", help="report the state of a server from its log: healthy, failed and why, or not understood"
    )
    parser.add_argument(
        "log", nargs="+", help="log files of one deployment, also compressed by gzip; - reads standard input"
    )
    parser.add_argument("--engine", help="the engine that wrote the log; default: detected from the log")
    parser.add_argument("--engine-version", help="version of the engine, if the log does not state the version")
    parser.add_argument("--exit-code", type=int, help="how the process ended: 137 or -9 for signal 9")
    parser.add_argument("--oom-killed", choices=("true", "false"), help="the OOMKilled flag of the container's state")
    parser.add_argument("--good", metavar="GOOD", help="the log of a good boot, for comparison")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """
    Report on the given logs. Return 0 if the server is healthy or has not failed so far, 1 if it failed, 2 if a log
    cannot be read.
    """
    known = backends.catalogues()
    if given.engine is not None and given.engine not in known:
        raise UsageError(unknown("engine", given.engine, known))
    killed = None if given.oom_killed is None else given.oom_killed == "true"
    evidence = Evidence(exit_code=given.exit_code, oom_killed=killed)
    reports = [report(name, known, evidence, given.engine, given.engine_version) for name in given.log]
    good = report(given.good, known, Evidence(), given.engine, given.engine_version) if given.good else None
    compared = {
        each.name: list(differences(each.reading, good.reading, _texts(each.name), _texts(good.name)))
        for each in reports
        if good
    }
    if given.json:
        rows = [{**each.as_json(), **({"differences": compared[each.name]} if good else {})} for each in reports]
        print(json.dumps(cleaned(rows), indent=1))
    else:
        for each in reports:
            print(shown("\n".join([*each.lines(), *(f"  differs  {line}" for line in compared.get(each.name, ()))])))
    return 1 if any(each.bad for each in reports) else 0


def report(
    name: str, known: Mapping[str, Catalogue], evidence: Evidence, engine: str | None = None, version: str | None = None
) -> LogReport:
    """Return the report on the log *name*. Raises `UsageError` if the file is not a log."""
    with _opened(name) as source:
        first = source.read(4 * _CHUNK_BYTES)
        if not first:
            raise UsageError(f"{name}: the log is empty")
        if b"\0" in first[:_CHUNK_BYTES]:
            raise UsageError(f"{name}: must be a text file or a text file compressed by gzip; found NUL bytes")
        engine = engine or engine_of([first])
        catalogue = known.get(engine or "") or backends.every_catalogue()
        reading = read(_chunks(first, source), catalogue, version)
    state, found = assess(reading, evidence)
    return LogReport(name, engine, reading, state, found, documented(engine, found))


def catalogue_of(backend: str) -> str:
    """Return the name of the catalogue that holds the log lines of *backend*."""
    made = backends.named(backend)
    return made.failures or made.name


def documented(engine: str | None, found: Diagnosis | None) -> tuple[Finding, ...]:
    """
    Return the shipped findings that document the failure *found* in a log of *engine*: with its signature, and with its
    phase if they name one.
    """
    if found is None or found.signature is None:
        return ()
    deployed = deployment.load_all((paths.suites() / "deployments",))
    findings = load_findings((paths.suites() / "findings",)).values()
    return tuple(
        each
        for each in findings
        if each.expect.signature == found.signature
        and each.expect.phase in (None, found.phase)
        and any(
            deployed[name].backend.partition("-")[0] == engine for name in each.scope.deployment if name in deployed
        )
    )


def _chunks(first: bytes, source: IO[bytes]) -> Iterator[bytes]:
    for start in range(0, len(first), _CHUNK_BYTES):
        yield first[start : start + _CHUNK_BYTES]
    while chunk := source.read(_CHUNK_BYTES):
        yield chunk


def _texts(name: str) -> Iterator[str]:
    """Return the lines of the log *name*; empty for standard input or a pipe, which can be read only once."""
    if name == "-" or not stat.S_ISREG(Path(name).stat().st_mode):
        return
    with _opened(name) as source:
        for line in source:
            yield line.decode("utf-8", "replace")


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    """Yield the log *name*, opened as bytes and decompressed if necessary. Raises `UsageError`."""
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        with open(name, "rb", opener=paths.without_waiting) as file:
            if not file.peek(len(_GZIP)).startswith(_GZIP):
                yield file
                return
            with gzip.open(file) as unpacked:
                yield cast("IO[bytes]", unpacked)
    except (OSError, EOFError, ValueError, zlib.error) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
        raise UsageError(f"{name}: cannot be read: {reason}") from None
