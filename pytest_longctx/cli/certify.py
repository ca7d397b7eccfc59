"""``longctx certify``: what an endpoint really serves."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from pytest_longctx import units
from pytest_longctx.certificate import page, run
from pytest_longctx.certificate.budget import Prices, parse
from pytest_longctx.certificate.dialects import known
from pytest_longctx.client.server import KEY_VARIABLE
from pytest_longctx.errors import UsageError
from pytest_longctx.prompts.tokenizer import load
from pytest_longctx.redaction import shown


def add(commands: Any) -> None:
    """Add the command to the console parser."""
    parser: ArgumentParser = commands.add_parser(
        "certify", help="check what an endpoint really serves: its length, its counts, its answers and its errors"
    )
    parser.add_argument("url", metavar="URL", help="base URL of the API; the key comes from the environment")
    parser.add_argument("--model", help="name of the model; default: the only one that it lists")
    parser.add_argument("--claim", metavar="TOKENS", help="the context that is claimed, as in 1M or 128Ki")
    parser.add_argument("--budget", default="2M", metavar="TOKENS|$", help="the most that is sent; default: 2M tokens")
    parser.add_argument("--price-in", type=float, metavar="$", help="price of a million prompt tokens")
    parser.add_argument("--price-out", type=float, metavar="$", help="price of a million answer tokens")
    parser.add_argument("--yes", action="store_true", help="do not ask before anything is sent")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the certificate as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as one HTML page")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a badge line")
    parser.add_argument("--tokenizer", metavar="DIR", help="folder of the model's tokenizer, if usage is not reported")
    parser.add_argument(
        "--key-env", default=KEY_VARIABLE, metavar="NAME", help=f"variable with the key; default: {KEY_VARIABLE}"
    )
    parser.add_argument(
        "--dialect", choices=[each.id for each in known()], help="ask in this one only; default: the first that is served"
    )
    parser.add_argument("--seed", type=int, help="seed of the texts; default: random, and printed")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="longest silence; default: 600 s")
    parser.set_defaults(run=certify)


def certify(given: Namespace) -> int:
    """Run the checks. Returns 0 if none is broken, 1 if one is, 2 if none could be judged."""
    wanted = _wanted(given)
    if given.html:
        page.check_html()
    wire = wanted.wire()
    if not wire.local:
        _confirm(wanted, wire.base, yes=given.yes)
    certificate = run.certify(wanted, wire, _progress)
    page.write(certificate, html_to=given.html, json_to=given.json, markdown_to=given.markdown)
    print(shown("\n".join(page.lines(certificate)), wire.secrets))
    return certificate.exit_status


def _wanted(given: Namespace) -> run.Wanted:
    try:
        claim = None if given.claim is None else units.tokens(given.claim)
    except ValueError as problem:
        raise UsageError(f"--claim: {problem}") from None
    for name, value in (("--price-in", given.price_in), ("--price-out", given.price_out)):
        if value is not None and not 0 <= value < 1e6:
            raise UsageError(f"{name}: {value} is not a price in $ for a million tokens")
    if not 0 < given.timeout <= 86_400:
        raise UsageError(f"--timeout: {given.timeout} is not a time in seconds, up to 86400")
    if claim is not None and claim < 256:
        raise UsageError(f"--claim: {claim} tokens are fewer than the checks need; write for example 128000 or 1M")
    return run.Wanted(
        given.url,
        given.model,
        claim,
        parse(given.budget, Prices(given.price_in, given.price_out)),
        given.key_env,
        given.seed,
        load(given.tokenizer) if given.tokenizer else None,
        given.timeout,
        given.dialect,
    )


def _confirm(wanted: run.Wanted, host: str, *, yes: bool) -> None:
    """Print what will be sent, and ask. Raises `UsageError` without a yes."""
    print(shown("\n".join(run.plan(wanted, host))), file=sys.stderr, flush=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nothing was sent: add --yes to send this without a question")
    if input("Send it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was sent")


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{shown(line)}", end="", file=sys.stderr, flush=True)
