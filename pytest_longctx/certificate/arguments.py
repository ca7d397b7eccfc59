"""Arguments of a certificate, for the console and for a test run."""

from argparse import ArgumentParser, Namespace

from pytest_longctx import units
from pytest_longctx.certificate.budget import Prices, parse
from pytest_longctx.certificate.dialects import known
from pytest_longctx.certificate.run import Wanted
from pytest_longctx.client.server import KEY_VARIABLE
from pytest_longctx.errors import UsageError
from pytest_longctx.prompts.tokenizer import load


def add(parser: ArgumentParser) -> None:
    """Add the arguments of a certificate to *parser*: model, claim, budget, prices and others."""
    parser.add_argument("--model", help="name of the model; default: the only model that the server lists")
    parser.add_argument("--claim", metavar="TOKENS", help="the claimed context length, for example 1M or 128Ki")
    parser.add_argument(
        "--budget", default="2M", metavar="TOKENS|$", help="limit on all tokens or money spent; default: 2M tokens"
    )
    parser.add_argument("--price-in", type=float, metavar="$", help="price in $ of a million prompt tokens")
    parser.add_argument("--price-out", type=float, metavar="$", help="price in $ of a million answer tokens")
    parser.add_argument("--yes", action="store_true", help="send the requests without asking for consent")
    parser.add_argument(
        "--tokenizer", metavar="DIR", help="folder of the model's tokenizer; needed if the server reports no usage"
    )
    parser.add_argument(
        "--key-env",
        default=KEY_VARIABLE,
        metavar="NAME",
        help=f"environment variable with the API key; default: {KEY_VARIABLE}",
    )
    parser.add_argument(
        "--dialect",
        choices=[each.id for each in known()],
        help="use only this dialect; default: the first that the server answers",
    )
    parser.add_argument("--seed", type=int, help="seed of the texts; default: random, and printed")
    parser.add_argument(
        "--timeout",
        type=float,
        default=600,
        metavar="S",
        help="longest wait for a page or for the next piece of text; default: 600 s",
    )


def wanted(url: str, given: Namespace) -> Wanted:
    """Return the request to certify *url* that the arguments *given* describe. Raises `UsageError`."""
    try:
        claim = None if given.claim is None else units.tokens(given.claim)
    except ValueError as problem:
        raise UsageError(f"--claim: {problem}") from None
    for name, value in (("--price-in", given.price_in), ("--price-out", given.price_out)):
        if value is not None and not 0 <= value < 1e6:
            raise UsageError(f"{name}: {value} must be a price in $ for a million tokens")
    if not 0 < given.timeout <= 86_400:
        raise UsageError(f"--timeout: must be above 0 and at most 86400 s; found {given.timeout}")
    if claim is not None and claim < 256:
        raise UsageError(f"--claim: {claim} tokens are too few for the checks; write for example 128000 or 1M")
    return Wanted(
        url,
        given.model,
        claim,
        parse(given.budget, Prices(given.price_in, given.price_out)),
        given.key_env,
        given.seed,
        load(given.tokenizer) if given.tokenizer else None,
        given.timeout,
        given.dialect,
    )
