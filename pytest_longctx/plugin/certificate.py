"""Run ``longctx certify`` once for the tests of the suite ``certificate``."""

import shlex
from argparse import ArgumentError, ArgumentParser

import pytest

from pytest_longctx.certificate import arguments, run
from pytest_longctx.certificate.run import Certificate
from pytest_longctx.errors import UsageError
from pytest_longctx.plugin.session import Session, failing_plainly


def url_of(session: Session) -> str | None:
    """Return the URL of the endpoint to certify, from ``--longctx-launcher=url:URL``; None for any other launcher."""
    kind, _, what = session.options.launcher.partition(":")
    return what if kind == "url" else None


def certificate(session: Session) -> Certificate:
    """Certify this run's endpoint and return the certificate. If that is impossible, fail the test without a traceback."""
    url = url_of(session)
    if url is None:
        pytest.skip("a certificate is for a running server: --longctx-launcher=url:URL")
    with failing_plainly():
        wanted = _wanted(url, session.options.certify)
        wire = wanted.wire()
        return run.certify(wanted, wire)


def _wanted(url: str, words: str) -> run.Wanted:
    parser = ArgumentParser(prog="--longctx-certify", add_help=False, exit_on_error=False)
    arguments.add(parser)
    try:
        given, rest = parser.parse_known_args(shlex.split(words))
    except (ArgumentError, ValueError) as problem:
        raise UsageError(f"--longctx-certify: {problem}") from None
    if rest:
        raise UsageError(f"--longctx-certify: unknown words: {' '.join(rest)}")
    wanted = arguments.wanted(url, given)
    if not wanted.wire().local and not given.yes:
        planned = "\n".join(run.plan(wanted, wanted.wire().base))
        raise UsageError(f"{planned}\nnothing was sent: add --yes to --longctx-certify to send this")
    return wanted
