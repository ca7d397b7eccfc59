"""Compare the throughput in an engine's log with the throughput that the client measured for a request."""

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pytest_longctx.client.exchange import Exchange
from pytest_longctx.client.request import ask
from pytest_longctx.client.server import Server
from pytest_longctx.diagnosis.signatures import RateLine
from pytest_longctx.findings.claims import OFF
from pytest_longctx.observation import Observation
from pytest_longctx.processes.progress import ProgressCallback, no_progress, wait_until
from pytest_longctx.prompts import Sendable

_LATE_S = 3.0
"""Seconds by which a log line may be late: its window has ended, and the line is not in the log yet."""


class Logged(NamedTuple):
    """One throughput from a log line, and the number of tokens if the line has it."""

    tokens_per_s: float
    tokens: int | None = None


def rates(lines: Iterable[str], line_of: RateLine) -> list[Logged]:
    """Return every logged rate above zero in *lines*."""
    found = []
    for line in lines:
        if seen := re.search(line_of.regex, line):
            groups = seen.groupdict()
            tokens = groups.get("prompt_tokens")
            found.append(Logged(float(groups["logged_tokens_per_s"]), None if tokens is None else int(tokens)))
    return [each for each in found if each.tokens_per_s > 0]


def weigh(exchange: Exchange, logged: Iterable[Logged]) -> Observation:
    """
    Return the verdict of arithmetic on the highest logged rate: it ``adds up``, or it ``cannot be`` the rate of this
    request.

    If a line has no token count, the whole prompt is assumed to count in its window, as in vLLM.
    """
    seen = exchange.observe()
    best, measured = max(logged, default=None), seen.metrics["prefill_tokens_per_s"]
    prompt, cached = seen.metrics["prompt_tokens"], seen.metrics["cached_tokens"]
    if best is None or measured is None or prompt is None or cached is None:
        lack = "no log line with a rate appeared" if best is None else "the client's rate was not observed"
        return Observation(None, seen.metrics, said=f"{lack}; the rates cannot be compared")
    window_s = (best.tokens or prompt - cached) / best.tokens_per_s
    ratio = best.tokens_per_s / measured
    found = {"logged_tokens_per_s": best.tokens_per_s, "log_window_s": window_s, "log_rate_ratio": ratio}
    message = (
        f"artefact: the logged {best.tokens_per_s:,.1f} tokens/s is the prompt divided by a log window of {window_s:.3g} s; "
        f"the client measured {measured:,.1f} tokens/s"
    )
    artefact = abs(ratio - 1) > OFF
    return Observation(
        "cannot be" if artefact else "adds up", {**seen.metrics, **found}, phase="log", said=message if artefact else ""
    )


def observe(server: Server, prompt: Sendable, output_tokens: int, watch: ProgressCallback = no_progress) -> Observation:
    """
    Send one request alone in a log window, and return the comparison with the logged rate. The outcome is None without
    a readable log.
    """
    line_of, log = server.backend.catalogue.rate, server.log
    if line_of is None or log is None:
        return Observation(None, said="the server's log cannot be read, or no pattern for its throughput line is known")
    time.sleep(1.1 * line_of.window_s)  # earlier requests are in an earlier window
    start = log.stat().st_size
    exchange = ask(server, prompt, output_tokens, watch=watch)
    if exchange.ending != "complete":
        return exchange.observe()
    return weigh(exchange, wait_until(lambda: rates(_since(log, start), line_of), 1.1 * line_of.window_s + _LATE_S))


def _since(log: Path, start: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode("utf-8", "replace").splitlines()
