"""
Findings about two servers that need not run at one time: 'drift', and 'repeatable' with other chunk sizes.

The answers of one server stay in the results folder. They are compared at the later boot of the two, or in a later run.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pytest_longctx.client import repeatability
from pytest_longctx.client.drift import readings
from pytest_longctx.client.drift.compare import compare
from pytest_longctx.client.drift.readings import READS, Readings
from pytest_longctx.client.exchange import UnservedError
from pytest_longctx.client.repeatability import Answers
from pytest_longctx.client.state_paths.walk import UnwalkableError
from pytest_longctx.findings.ask import TEXTS
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.scope import Mismatch
from pytest_longctx.launchers.boot import Boot
from pytest_longctx.observation import Observation
from pytest_longctx.prompts import Prompt, PromptFactory
from pytest_longctx.reports import properties

if TYPE_CHECKING:
    from pytest_longctx.client.server import Server
    from pytest_longctx.plugin.session import Session

T = TypeVar("T")


def compare_texts(
    session: "Session", server: "Server", boot: Boot, factory: PromptFactory, finding: Finding
) -> Observation | Mismatch:
    """
    Return the drift of *server* from the other deployment on the texts of *finding*. If the other deployment has no
    readings yet, return the reason. Raises `LongctxError`.
    """
    if server.backend.scoring is None:
        why = f"{server.backend.called} returns no log-probabilities of a prompt"
        return Observation(None, phase="request", said=why)
    reader = _Reader(session, server, boot, texts(finding, factory, real=_real(server)), READS * finding.ask.runs)
    judged, against = finding.divided()
    own = server.deployment.name
    try:
        mine = reader.kept()
        if judged == against:
            return _drifted(session, judged, finding, mine, reader.read())
    except UnservedError as problem:
        return problem.exchange.observe()
    theirs = _other(session, against if own == judged else judged, reader.key, reader.path, readings.load)
    if isinstance(theirs, Mismatch):
        return theirs
    pair = (theirs, mine) if own == judged else (mine, theirs)
    return _drifted(session, judged, finding, *pair)


def texts(finding: Finding, factory: PromptFactory, *, real: bool) -> list[Prompt]:
    """
    Return the texts of a 'drift' finding: natural texts for *real* weights, otherwise random ids.

    They are the same in every run and for every finding with the same number and length, so that readings can be
    compared.
    """
    fixed = factory.constant("drift")
    draw = fixed.natural if real else fixed
    return [draw(finding.ask.prompt_tokens or 1) for _ in range(finding.ask.requests or TEXTS)]


def repeatable(
    session: "Session", server: "Server", boot: Boot, factory: PromptFactory, finding: Finding
) -> Observation | Mismatch:
    """
    Return the comparison of the answers of *server* to one prompt, alone and beside other requests. If *finding* names
    another server, its answers are compared too. Raises `LongctxError`.
    """
    own, ask = server.deployment.name, finding.ask
    folder, key = session.options.results / "repeatable", f"{ask.prompt_tokens}-{ask.output_tokens}"
    try:
        if (own, key) not in session.repeated_answers:
            with session.measuring(server, ask.prompt_tokens):
                fixed, watch = factory.constant("repeatable"), session.progress_line.update
                found = repeatability.ask(server, fixed, ask, watch, natural=_real(server))
            kept = Answers(found.prompt, found.each, _facts(boot))
            session.repeated_answers[own, key] = kept
            repeatability.save(kept, repeatability.path_of(folder, own, ask))
    except UnservedError as problem:
        return problem.exchange.observe()
    except UnwalkableError as problem:
        return Observation(None, phase="request", said=str(problem))
    mine = session.repeated_answers[own, key]
    if ask.against is None:
        return repeatability.compare(mine)
    judged, against = finding.divided()
    other = against if own == judged else judged
    theirs = _other(session, other, key, lambda name: repeatability.path_of(folder, name, ask), repeatability.load)
    if isinstance(theirs, Mismatch):
        return theirs
    return repeatability.compare(*((mine, theirs) if own == judged else (theirs, mine)))


def _real(server: "Server") -> bool:
    """Return whether the weights of *server* are trained, so that natural text is a usual input."""
    return server.deployment.model.weights == "real"


def _facts(boot: Boot) -> Mapping[str, str]:
    return {**boot.facts, "read": datetime.now(UTC).isoformat(timespec="seconds")}


def _drifted(session: "Session", name: str, finding: Finding, reference: Readings, judged: Readings) -> Observation:
    """Return the evidence of a comparison, and record its curve as rows of the results."""
    found, against = compare(reference, judged), finding.ask.against or name
    for each in found.curve:
        row = {"finding": finding.id, "deployment": name, "against": against, **each._asdict()}
        session.unrecorded.append(properties.row_pair(properties.DRIFT, row))
    engine, read = (reference.facts.get(key, "") for key in ("engine", "read"))
    return Observation("serves", found.metrics, phase="request", said=f"against {against}, {engine}, read {read}")


class _Reader:
    """Readings of one set of texts on one server, *count* times each."""

    def __init__(self, session: "Session", server: "Server", boot: Boot, asked: list[Prompt], count: int) -> None:
        self._session, self._server, self._boot, self._asked, self._count = session, server, boot, asked, count
        self._texts = readings.digest(asked)
        self.key = f"{self._texts}-{count}"

    def path(self, deployment: str) -> Path:
        """Return the path of the file with the readings of *deployment*."""
        return readings.path_of(self._session.options.results / "drift", deployment, self._texts, self._count)

    def kept(self) -> Readings:
        """Return the readings of this boot's server, which are taken once."""
        name, known = self._server.deployment.name, self._session.drift_readings
        if (name, self.key) not in known:
            known[name, self.key] = self.read()
            readings.save(known[name, self.key], self.path(name))
        return known[name, self.key]

    def read(self) -> Readings:
        """Return new readings of the server."""
        session, asked = self._session, self._asked
        with session.measuring(self._server, sum(map(len, asked)) * self._count) as row:
            row["requests"] = len(asked) * self._count
            found = readings.read(self._server, asked, self._count, session.progress_line.update)
        return Readings(found.texts, found.reads, _facts(self._boot))


def _other(
    session: "Session", name: str, key: str, path_of: Callable[[str], Path], load: Callable[[Path], T]
) -> T | Mismatch:
    """
    Return the readings of the deployment *name*: from this run if the run boots it, otherwise from an earlier run.
    Without any, return the reason.

    Raises `ResultsError`.
    """
    path, kept = path_of(name), (*session.drift_readings, *session.repeated_answers)
    if name in session.boots_ahead and (name, key) not in kept:
        if name in session.booted:
            return Mismatch(0, f"against: {name} was booted in this run, but its answers could not be read")
        return Mismatch(0, f"against: {name} has not been booted in this run; judged at the later boot of the two")
    if path.is_file():
        return load(path)
    return Mismatch(
        0,
        f"against: {name} has not been read yet ({path} is missing): judge this finding on that deployment first, in this run "
        "or in an earlier run with the same --longctx-results",
    )
