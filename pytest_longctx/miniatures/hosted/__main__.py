"""Start one hosted API in miniature: ``python -m pytest_longctx.miniatures.hosted --fault drops-middle --port 8000``."""

import argparse
import os
from contextlib import ExitStack
from typing import Any

from pytest_longctx.miniatures.hosted.api import DIALECT_NAMES, HostedApi
from pytest_longctx.miniatures.hosted.faults import FAULTS
from pytest_longctx.miniatures.hosted.faults.path import Elsewhere
from pytest_longctx.miniatures.hosted.latency import Latency
from pytest_longctx.miniatures.hosted.rate_limit import RateLimit
from pytest_longctx.miniatures.hosted.refusals import REFUSALS
from pytest_longctx.miniatures.hosted.wire import Server, serving


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser of the hosted miniatures."""
    made = argparse.ArgumentParser(prog="python -m pytest_longctx.miniatures.hosted", description=__doc__)
    made.add_argument("--fault", choices=FAULTS, default="honest")
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, required=True)
    made.add_argument("--model", default="miniature")
    made.add_argument("--limit", type=int, default=131_072, help="context limit in tokens")
    made.add_argument(
        "--key-env", help="environment variable with the key that clients need; without it, none is needed"
    )
    made.add_argument("--dialect", choices=DIALECT_NAMES, action="append", help="repeat for several; default: chat")
    made.add_argument("--refusal", choices=REFUSALS, default="openai", help="wording of a refusal of the length")
    made.add_argument("--prompt-limit", action="store_true", help="the limit is that of the prompt, without the answer")
    made.add_argument("--answer-limit", type=int, default=1 << 17, help="highest max_tokens")
    made.add_argument("--listed", type=int, help="length that /v1/models lists; default: none")
    made.add_argument("--listing-field", default="context_length")
    made.add_argument("--no-cached-tokens", action="store_true", help="usage has no cached tokens")
    made.add_argument("--tokens-per-event", type=int, default=1)
    made.add_argument("--comments", action="store_true", help="streams begin with a comment")
    made.add_argument("--pages", action="store_true", help="serve /health and /metrics")
    made.add_argument("--requests-per-minute", type=int)
    made.add_argument(
        "--latency",
        default="none",
        metavar="DISTRIBUTION",
        help="none, fixed:S, uniform:LOW,HIGH or lognormal:MEDIAN,SIGMA",
    )
    made.add_argument("--prefill-tokens-per-s", type=float)
    made.add_argument("--decode-tokens-per-s", type=float)
    made.add_argument("--seed", type=int, default=0)
    return made


def built(given: argparse.Namespace, elsewhere: str | None = None) -> HostedApi:
    """Return the hosted miniature of the command line. Raises ValueError for an invalid distribution of delays."""
    more: dict[str, Any] = {"elsewhere": elsewhere} if elsewhere else {}
    return FAULTS[given.fault](
        model=given.model,
        limit=given.limit,
        key=os.environ[given.key_env] if given.key_env else None,
        dialects=tuple(given.dialect or ("chat",)),
        refusal=given.refusal,
        counts_answer=not given.prompt_limit,
        answer_limit=given.answer_limit,
        listed=given.listed,
        listing_field=given.listing_field,
        reports_cached=not given.no_cached_tokens,
        tokens_per_event=given.tokens_per_event,
        comments=given.comments,
        pages=given.pages,
        latency=Latency(given.latency, given.prefill_tokens_per_s, given.decode_tokens_per_s, given.seed),
        rate_limit=RateLimit(given.requests_per_minute) if given.requests_per_minute else None,
        seed=given.seed,
        **more,
    )


def main() -> None:
    """Run one hosted API in miniature: parse its command line and serve until terminated."""
    commands = parser()
    given = commands.parse_args()
    if given.key_env and not os.environ.get(given.key_env):
        commands.error(f"--key-env {given.key_env}: that variable is not set")
    with ExitStack() as stack:
        elsewhere = None
        if given.fault == "redirects-elsewhere":
            other = stack.enter_context(serving(Elsewhere(HostedApi(given.model, given.limit))))
            elsewhere = other.replace("127.0.0.1", "localhost")
        try:
            api = built(given, elsewhere)
        except ValueError as wrong:
            commands.error(str(wrong))
        with Server((given.host, given.port), api) as server:
            print(f"INFO:     {given.fault} serves {api.model} at {server.url}", flush=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                api.latency.stopped.set()


if __name__ == "__main__":
    main()
