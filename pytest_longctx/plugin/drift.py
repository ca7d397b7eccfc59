"""The two readings of a 'drift' finding: one of the server that runs, the other of this run or of an earlier one."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_longctx.client.drift import readings
from pytest_longctx.client.drift.compare import Comparison, compare
from pytest_longctx.client.drift.readings import READS, Readings
from pytest_longctx.client.exchange import UnservedError
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.scope import Mismatch
from pytest_longctx.launchers.boot import Boot
from pytest_longctx.observation import Observation
from pytest_longctx.prompts import Prompt, PromptFactory
from pytest_longctx.reports import properties

if TYPE_CHECKING:
    from pytest_longctx.client.server import Server
    from pytest_longctx.plugin.session import Session

TEXTS: Final = 4
"""Texts of a 'drift' finding, if it does not say how many."""


def texts(finding: Finding, factory: PromptFactory, *, real: bool) -> list[Prompt]:
    """
    The texts of a 'drift' finding: natural ones for *real* weights, else random ids.

    They are the same for every finding, run and server that asks for as many of this length, so that readings can be compared.
    """
    fixed = factory.constant("drift")
    draw = fixed.natural if real else fixed
    return [draw(finding.ask.prompt_tokens or 1) for _ in range(finding.ask.requests or TEXTS)]


def judge_by(
    session: "Session", server: "Server", boot: Boot, factory: PromptFactory, finding: Finding
) -> Observation | Mismatch:
    """
    Read the texts of *finding* on *server*, and compare with the other deployment's reading; the reason, if there is none yet.

    The reading is kept in the results folder: two servers need not run at the same time. Raises `LongctxError`.
    """
    if server.backend.scoring is None:
        return Observation(
            None, phase="request", said=f"{server.backend.called} returns no log-probabilities of a prompt"
        )
    asked = texts(finding, factory, real=server.deployment.model.weights == "real")
    reader, own = _Reader(session, readings.digest(asked), READS * finding.ask.runs), server.deployment.name
    try:
        mine = reader.read(server, boot, asked)
        if (finding.ask.against or own) == own and len(finding.scope.deployment) < 2:
            return _seen(session, finding, own, mine, reader.again(server, boot, asked))
    except UnservedError as problem:
        return problem.exchange.observe()
    other = next(name for name in finding.scope.deployment if name != own)
    theirs = reader.of(other)
    if isinstance(theirs, Mismatch):
        return theirs
    reference, judged = (theirs, mine) if finding.ask.against == other else (mine, theirs)
    return _seen(session, finding, finding.divided()[0], reference, judged)


def _seen(session: "Session", finding: Finding, name: str, reference: Readings, judged: Readings) -> Observation:
    """The evidence of a comparison, whose curve becomes rows of the results."""
    found: Comparison = compare(reference, judged)
    against = finding.ask.against or name
    for each in found.curve:
        row = {"finding": finding.id, "deployment": name, "against": against, **each._asdict()}
        session.unrecorded.append(properties.row_pair(properties.DRIFT, row))
    parts = (reference.facts.get(key, "") for key in ("engine", "read"))
    return Observation("serves", found.metrics, phase="request", said=f"against {against}, {', read '.join(parts)}")


class _Reader:
    """Readings of one set of texts, read *count* times each."""

    def __init__(self, session: "Session", digest: str, count: int) -> None:
        self._session, self._digest, self._count = session, digest, count

    def _path(self, deployment: str) -> Path:
        return readings.path_of(self._session.options.results / "drift", deployment, self._digest, self._count)

    def read(self, server: "Server", boot: Boot, asked: list[Prompt]) -> Readings:
        """The reading of *server*, from this boot of it."""
        key = (server.deployment.name, self._digest, self._count)
        if key not in self._session.drift_readings:
            self._session.drift_readings[key] = self.again(server, boot, asked)
            readings.save(self._session.drift_readings[key], self._path(server.deployment.name))
        return self._session.drift_readings[key]

    def again(self, server: "Server", boot: Boot, asked: list[Prompt]) -> Readings:
        """A new reading of *server*."""
        session = self._session
        with session.measuring(server, sum(map(len, asked)) * self._count) as row:
            row["requests"] = len(asked) * self._count
            found = readings.read(server, asked, self._count, session.progress_line.update)
        facts = {**boot.facts, "read": datetime.now(UTC).isoformat(timespec="seconds")}
        return Readings(found.texts, found.reads, facts)

    def of(self, other: str) -> Readings | Mismatch:
        """The reading of the deployment *other*; the reason, if there is none."""
        session = self._session
        if found := session.drift_readings.get((other, self._digest, self._count)):
            return found
        if other in session.booted:
            return Mismatch(0, f"drift: {other} was booted in this run and could not be read")
        if other in session.boots_ahead:
            return Mismatch(0, f"drift: {other} has not been booted in this run; judged at the later boot of the two")
        path = self._path(other)
        if path.is_file():
            return readings.load(path)
        return Mismatch(
            0,
            f"drift: there is no reading of {other}: judge this finding on it first, in this run or with the same "
            f"--longctx-results ({path} is missing)",
        )
