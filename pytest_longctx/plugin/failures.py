"""
The text of a failed test, for pytest's report, JUnit XML and annotations.

A failing verdict and an unserved request are shown without a traceback and without the reprs of the compared values. pytest
shows every other failure as usual.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_longctx import redaction
from pytest_longctx.client.exchange import Exchange, UnservedError
from pytest_longctx.client.server import Server
from pytest_longctx.errors import LongctxError
from pytest_longctx.findings.verdicts import Verdict
from pytest_longctx.observation import Observation
from pytest_longctx.plugin import options
from pytest_longctx.plugin.session import Session, verdicts_of
from pytest_longctx.reports import causes, properties
from pytest_longctx.reports.causes import Key
from pytest_longctx.reports.explanation import Setting, exchange_text, verdict_text

_LOGGED = ("dies", "fails", "runs out of memory", "asserts", "disconnects", "hangs", "is not admitted")
"""Outcomes whose cause the server's log may contain."""


def unserved_error(session: Session, item: pytest.Item, server: Server, exchange: Exchange) -> UnservedError:
    """Return the error of a test that needs an answer, for an *exchange* without an answer."""
    boot = session.booted.get(server.deployment.name)
    seen = exchange.observe()
    if boot is not None and boot.server is not None:
        try:
            seen = boot.evidence(exchange)
        except LongctxError as problem:  # its container or Pod is gone, which explains the missing answer
            seen = Observation(seen.outcome, seen.metrics, seen.phase, said=str(problem))
    setting = _setting(session, item, server.deployment.name, seen)
    return UnservedError(exchange_text(exchange, seen, setting, server.max_model_len), exchange)


_UNSERVED = pytest.StashKey[tuple[Server, Exchange]]()


def keep_unserved(item: pytest.Item, server: Server, exchange: Exchange) -> None:
    """Store an *exchange* that was returned to the test, so that a failure of the test can show the server's message."""
    item.stash[_UNSERVED] = (server, exchange)


def unserved_text(session: Session, item: pytest.Item) -> str:
    """Return the failure text of the last unserved request returned to *item*; empty if there is none."""
    server, exchange = item.stash.get(_UNSERVED, (None, None))
    return "" if server is None or exchange is None else str(unserved_error(session, item, server, exchange))


def failing(session: Session, item: pytest.Item) -> list[Verdict]:
    """Return the verdicts that fail the test *item*: broken ones, and unmeasured ones if the run is strict."""
    words = ("broken", "unmeasured") if session.options.strict else ("broken",)
    return [verdict for verdict in verdicts_of(item) if verdict.word in words]


def verdicts_text(session: Session, item: pytest.Item) -> str:
    """Return the failure text of all failing verdicts of *item*; empty if none fails."""
    return "\n\n".join(_verdict_text(session, item, verdict, pointing=True) for verdict in failing(session, item))


def explanations(session: Session, item: pytest.Item) -> list[tuple[str, str]]:
    """Return the findings of *item* that do not hold, each with its full explanation, for the results file."""
    return [
        (verdict.finding.id, _verdict_text(session, item, verdict, pointing=False))
        for verdict in verdicts_of(item)
        if verdict.word in ("broken", "unmeasured", "known")
    ]


def _told_by(session: Session, item: pytest.Item, verdict: Verdict, key: Key) -> str:
    """
    Return the test that explains the cause *key* of a failing *verdict*; empty if this verdict is the first with that
    cause.
    """
    test, finding = session.told_causes.setdefault(key, (item.nodeid, verdict.finding.id))
    return "" if test == item.nodeid else f"as {finding}: see {test.rpartition('::')[2]}"


def boot_text(session: Session, item: pytest.Item, told: str) -> str:
    """
    Return the failure text of a test whose server failed to boot: *told* for the first test, a pointer to the first
    test for others.
    """
    found = [verdict for verdict in verdicts_of(item) if verdict.word in ("broken", "unmeasured")]
    key = Key("boot", _deployment_of(item))
    cause = _told_by(session, item, found[-1], key) if found else ""
    return f"{told.splitlines()[0]}\n  cause    {cause}\n  again    {_again(session, item)}" if cause else told


def _verdict_text(session: Session, item: pytest.Item, verdict: Verdict, *, pointing: bool) -> str:
    deployment = _deployment_of(item)
    setting = _setting(session, item, deployment, verdict.observation)
    cause = _told_by(session, item, verdict, causes.key(verdict.why, deployment)) if pointing else ""
    return verdict_text(verdict, replace(setting, cause=cause))


def add_below(longrepr: Any, session: Session, item: pytest.Item) -> None:
    """Add the broken verdicts, or the last unserved request, below the test's own failure text."""
    if hasattr(longrepr, "addsection"):
        if text := verdicts_text(session, item):
            longrepr.addsection("verdict", text, "-")
        elif text := unserved_text(session, item):
            longrepr.addsection("not served", text, "-")


def asserted(session: Session, item: pytest.Item, raised: BaseException | None) -> str:
    """
    Return the rows of a verdict below the message of a failed assertion. If the assertion is about that verdict, the
    rows replace its message.
    """
    found = failing(session, item)
    if not isinstance(raised, AssertionError) or not found:
        return ""
    said = str(raised)
    # pytest's rewriting quotes the verdict, or its word; with --assert=plain an assertion has no text.
    quoted = [f"{verdict.finding.id} {verdict.word}" for verdict in found] + [
        f"assert {each.word!r} " for each in found
    ]
    if said and not any(each in said for each in quoted):
        return ""
    own = said.partition("assert ")[0].strip()
    return f"{own}\n\n{verdicts_text(session, item)}" if own else verdicts_text(session, item)


def shown(text: str, call: pytest.CallInfo[None]) -> Any:
    """
    Return *text* as the whole report of a test's failure, its first line as pytest's short summary. Without an
    exception, return plain text.
    """
    if call.excinfo is None:
        return text
    told = pytest.fail.Exception(text, pytrace=False)
    return pytest.ExceptionInfo.from_exc_info((type(told), told, call.excinfo.tb)).getrepr(style="value")


def placed(text: str, item: pytest.Item, call: pytest.CallInfo[None]) -> str:
    """Return the failure *text* with the raising line of the test below its first line."""
    entries = call.excinfo.traceback if call.excinfo else ()
    lines = [entry.lineno + 1 for entry in entries if Path(entry.path) == item.path]
    first, _, rest = text.partition("\n")
    return f"{first}\n  at       {item.location[0]}:{lines[-1]}\n{rest}" if lines else text


def make_plain(report: Any, call: pytest.CallInfo[None]) -> None:
    """
    Mask secrets in all parts of the test *report*, and make its failure text safe to print. All other reports are made
    from it.
    """
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, redaction.shown(str(reason)))
    elif report.longrepr is not None and (plain := redaction.shown(report.longreprtext)) != report.longreprtext:
        report.longrepr = plain if isinstance(report.longrepr, str) else shown(plain, call)
    report.sections = [(name, redaction.masked(text)) for name, text in report.sections]
    report.user_properties = [
        (name, redaction.masked(value) if isinstance(value, str) else value) for name, value in report.user_properties
    ]


def attach(report: pytest.TestReport, rows: Sequence[tuple[str, str]]) -> None:
    """Attach *rows* of the results file to the test *report*, with secrets masked. JSON already makes foreign text plain."""
    report.__dict__[properties.ROWS] = [[kind, redaction.masked(row)] for kind, row in rows]


def attached(report: pytest.TestReport) -> list[tuple[str, str]]:
    """Return the rows of the results file that were attached to the test *report*."""
    return [(kind, row) for kind, row in report.__dict__.get(properties.ROWS, ())]


def _deployment_of(item: pytest.Item) -> str:
    return next((entry.server.get("deployment", "") for entry in properties.entries(item.user_properties)), "")


def _setting(session: Session, item: pytest.Item, deployment: str, seen: Observation | None) -> Setting:
    boot = session.booted.get(deployment)
    log = boot.log if boot is not None and seen is not None and seen.outcome in _LOGGED else None
    catalogue = session.selection.backend.catalogue
    known = (*catalogue.refusal, *catalogue.signature) if seen is not None and seen.signature else ()
    remedy = next((each.remedy for each in known if seen is not None and each.id == seen.signature), "")
    return Setting(deployment, remedy, str(log or ""), _again(session, item))


def _again(session: Session, item: pytest.Item) -> str:
    words = [redaction.masked(word) for word in options.repeated(session.config)]
    root = str(session.config.rootpath)
    header = {"options": words, "backend": session.selection.backend.name, "seed": session.seed, "root": root}
    return causes.again(header, {"test": item.nodeid, "server": {}})
