"""``longctx certify``: check an endpoint, and report what it serves."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from pytest_longctx.certificate import arguments, page, run
from pytest_longctx.errors import UsageError
from pytest_longctx.redaction import shown


def add(commands: Any) -> None:
    """Add the subcommand ``longctx certify`` to the console parser."""
    parser: ArgumentParser = commands.add_parser(
        "certify", help="check what an endpoint really serves: context length, token counts, answers and errors"
    )
    parser.add_argument("url", metavar="URL", help="base URL of the API; the API key is read from the environment")
    arguments.add(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the certificate as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as one HTML page")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a badge line")
    parser.set_defaults(run=certify)


def certify(given: Namespace) -> int:
    """
    Certify the given endpoint from the console. Return 0 if no check is broken, 1 if a check is broken, 2 if none could
    be judged.
    """
    wanted = arguments.wanted(given.url, given)
    if given.html:
        page.check_html()
    wire = wanted.wire()
    if not wire.local:
        _confirm(wanted, wire.base, yes=given.yes)
    certificate = run.certify(wanted, wire, _progress)
    page.write(certificate, html_to=given.html, json_to=given.json, markdown_to=given.markdown)
    print(shown("\n".join(page.lines(certificate)), wire.secrets))
    return certificate.exit_status


def _confirm(wanted: run.Wanted, host: str, *, yes: bool) -> None:
    """Print what will be sent to the endpoint, and ask for consent. Raises `UsageError` unless the user consents."""
    print(shown("\n".join(run.plan(wanted, host))), file=sys.stderr, flush=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nothing was sent: there is no terminal to ask for consent; add --yes to consent")
    if input("Send it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was sent")


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{shown(line)}", end="", file=sys.stderr, flush=True)
