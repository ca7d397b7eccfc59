"""
One request and its answer, recorded as clock readings. All metrics are derived from the readings.

``None`` means not observed, never zero. Times are seconds on a monotonic clock.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Literal

from pytest_longctx.client.answer_tokens import Token, first_difference
from pytest_longctx.client.json_values import json_of
from pytest_longctx.errors import LaunchError, LongctxError
from pytest_longctx.findings import aggregate
from pytest_longctx.observation import Kind, Observation, Outcome
from pytest_longctx.redaction import shown
from pytest_longctx.units import duration

Ending = Literal[
    "complete",
    "refused",
    "server error",
    "disconnected",
    "died mid-stream",
    "malformed",
    "stalled",
    "deadline",
    "unfinished",
    "not admitted",
    "engine dead",
    "not asked",
]
"""
How a request ended.

``died mid-stream``: the stream stopped without its closing ``[DONE]``. ``malformed``: the answer
is no completion event stream, or exceeds a limit of its size. ``engine dead``: the connection stayed open, but the
health endpoint reported a dead engine. ``stalled``: no progress for longer than the stall limit. ``deadline``: the deadline
passed without progress, or progress could not be observed. ``unfinished``: the deadline passed while the server was still
working, which proves nothing. ``not asked``: the answer shows that the request never reached an engine.
"""

ENDING_OUTCOMES: Mapping[Ending, Outcome | None] = {
    "complete": "serves",
    "refused": "refuses",
    "server error": "dies",
    "disconnected": "disconnects",
    "died mid-stream": "dies",
    "malformed": "fails",
    "stalled": "hangs",
    "deadline": "hangs",
    "unfinished": None,
    "not admitted": "is not admitted",
    "engine dead": "dies",
    "not asked": None,
}

ENDING_KINDS: Mapping[Ending, Kind] = {
    "malformed": "bad-answer",
    "stalled": "hang",
    "deadline": "hang",
    "unfinished": "too-slow",
    "not asked": "not-asked",
    "not admitted": "hang-admission",
    "engine dead": "dead-engine",
}
"""The failure kind of each ending, if nothing else is known."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts from the server's usage record."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens from a cache, without tokens whose KV cache the server received; None if not reported."""
    transferred_tokens: int | None = None
    """Prompt tokens whose KV cache a prefill role computed and sent; None if unknown, or without such a role."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """
    Increase of the server's own counters over one request or one load, to compare with the client's figures.

    Times are sums over the requests, by the server's clock.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Tokens from a cache or a transfer, from every source."""
    first_tokens: int | None = None
    """Number of requests that have their first token."""
    ttft_s: float | None = None
    queue_s: float | None = None
    prefill_s: float | None = None
    times_first_token: bool = True
    """False if the server has no time-to-first-token counter, so that a missing value is not an error."""
    external_tokens: int | None = None
    """The part of *cached_tokens* from outside the engine: from an external cache, a file, or a prefill role."""
    corrupted_requests: int | None = None
    """Requests with NaNs in their logits; None if the server does not check for them."""

    @property
    def local_tokens(self) -> int | None:
        """Tokens from the engine's own prefix cache; None if the server has no such counter."""
        return None if self.cached_tokens is None else self.cached_tokens - (self.external_tokens or 0)

    def gap_tokens(self, sent: int, asked: int) -> int | None:
        """
        Return the difference in tokens between the counters and the client's counts *sent* and *asked*; None if a
        counter is missing.
        """
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return abs(self.prompt_tokens - sent) + abs(self.completion_tokens - asked)


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    A request that the server refused, with its error text. *in_stream*: the error was an event of an answer with status
    200.
    """

    status: int
    text: str
    in_stream: bool = False

    @classmethod
    def read(cls, status: int, body: str, secrets: Iterable[str] = (), *, in_stream: bool = False) -> "Refusal":
        """
        Return the refusal that an error *body* describes. vLLM nests its message under ``error``, SGLang does not.
        *secrets* are masked.
        """
        message: object = body
        try:
            message = json_of(body)
            while isinstance(message, dict):
                message = message.get("error") or message.get("message") or str(message)
            text = str(message)
        except (ValueError, RecursionError):  # no JSON, or too deep to be written as text
            text = body
        return cls(status, shown(text, secrets)[:500], in_stream)


@dataclass(frozen=True, slots=True, repr=False)
class Exchange:
    """One request and its answer as the client saw them, with clock readings. None means not observed, never zero."""

    sent_tokens: int
    asked_tokens: int
    started_s: float
    ending: Ending
    ended_s: float
    uploaded_s: float | None = None
    arrivals_s: tuple[float, ...] = ()
    """Arrival time of each chunk with content. A chunk is not a token."""
    usage: Usage = Usage()
    """Token counts from the usage record. Each count is None if the server did not report it."""
    ledger: Ledger | None = None
    """Increase of the server's counters; None if the server has none, or if other requests changed them too."""
    refusal: Refusal | None = None
    waited_unscheduled_s: float | None = None
    health: int | None = None
    """HTTP status of the health endpoint after a failed request; None if it was not requested or did not answer."""
    kv_usage_peak: float | None = None
    """Highest share of the KV cache in use before the first token; None if unknown, or if other requests ran."""
    text: str = ""
    tokens: tuple[Token, ...] = ()
    """The tokens of the answer; empty if log-probabilities were not requested or not returned."""
    detail: str = ""
    """The error, as reported by the layer that detected it."""
    vitals: Mapping[str, float] = field(default_factory=dict)
    """Device and host readings during the request, by their names in `pytest_longctx.measures`."""

    def __repr__(self) -> str:
        """Return a short form, because pytest prints an exchange beside each figure in an assertion."""
        first = "" if self.ttft_s is None else f", TTFT {duration(self.ttft_s)}"
        message = self.refusal.text if self.refusal else self.detail
        shown = f": {message!r}" if message else ""
        return f"<Exchange of {self.sent_tokens:,} + {self.asked_tokens:,} tokens, {self.ending}{first}{shown}>"

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: from the first byte sent to the first chunk with content. None if no chunk arrived."""
        return self.arrivals_s[0] - self.started_s if self.arrivals_s else None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None unless the server counted at least two tokens."""
        counted = self.usage.completion_tokens
        if counted is None or counted < 2 or len(self.arrivals_s) < 2:
            return None
        return (self.arrivals_s[-1] - self.arrivals_s[0]) / (counted - 1)

    @property
    def gaps_s(self) -> tuple[float, ...]:
        """Seconds between chunks; empty if the answer has fewer than two chunks."""
        return tuple(later - earlier for earlier, later in pairwise(self.arrivals_s))

    def metrics(self) -> dict[str, float | None]:
        """Return every metric of `pytest_longctx.measures` that one exchange can give; None for one that was not observed."""
        usage, ttft_s, tpot_s, gaps_s = self.usage, self.ttft_s, self.tpot_s, self.gaps_s
        complete = self.ending == "complete"
        return {
            "ttft_s": ttft_s,
            "upload_s": None if self.uploaded_s is None else self.uploaded_s - self.started_s,
            "e2e_s": self.ended_s - self.started_s if complete else None,
            "tpot_s": tpot_s,
            "itl_p50_s": median(gaps_s) if gaps_s else None,
            "itl_max_s": max(gaps_s) if gaps_s else None,
            "prefill_tokens_per_s": _prefill_rate(usage, ttft_s),
            "decode_tokens_per_s": 1 / tpot_s if tpot_s else None,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
            "cached_share": _share(usage.cached_tokens, usage.prompt_tokens),
            **({} if usage.transferred_tokens is None else {"transferred_tokens": usage.transferred_tokens}),
            "waited_unscheduled_s": self.waited_unscheduled_s,
            "refusal_status": self.refusal.status if self.refusal else None,
            **({} if self.kv_usage_peak is None else {"kv_usage_peak": self.kv_usage_peak}),
            **({} if self.health is None else {"health_status": self.health}),
            **({} if self.ledger is None else self._by_the_server(self.ledger)),
            **self.vitals,
        }

    def _by_the_server(self, ledger: Ledger) -> dict[str, float | None]:
        """
        Return metrics from the server's counters, and the difference between both clocks at the first token; None for
        an unknown one.
        """
        gap_s = None
        if self.ttft_s is not None and ledger.ttft_s is not None and self.uploaded_s is not None:
            gap_s = self.ttft_s - (self.uploaded_s - self.started_s) - ledger.ttft_s
        clocks = {"server_ttft_s": ledger.ttft_s, "ttft_gap_s": gap_s} if ledger.times_first_token else {}
        return {
            "server_prompt_tokens": ledger.prompt_tokens,
            "server_completion_tokens": ledger.completion_tokens,
            "server_cached_tokens": ledger.local_tokens,
            **({} if ledger.corrupted_requests is None else {"corrupted_requests": ledger.corrupted_requests}),
            **clocks,
            "queue_s": ledger.queue_s,
            "server_prefill_s": ledger.prefill_s,
        }

    def observe(self) -> Observation:
        """Return the exchange as evidence for a verdict."""
        outcome, kind = ENDING_OUTCOMES[self.ending], ENDING_KINDS.get(self.ending)
        if self.ending == "server error" and self.health == 200:
            outcome, kind = "fails", "server-error"
        asked = self.ending != "not asked"
        return Observation(
            outcome=outcome,
            phase="request",
            said=self.refusal.text if self.refusal and asked else self.detail,
            metrics=self.metrics(),
            kind=kind,
            sent_tokens=self.sent_tokens,
            asked_tokens=self.asked_tokens if self.ending == "complete" else None,
        )


def observation_of(
    seen: Exchange | Sequence[Exchange] | Observation, observe: Callable[[Exchange], Observation] = Exchange.observe
) -> Observation:
    """
    Return the observation to judge from the value *seen* in a test: an exchange, several exchanges, or an observation.

    *observe* makes the observation of each exchange. Raises `LaunchError` if no request reached an engine.
    """
    if not isinstance(seen, Observation):
        each = [seen] if isinstance(seen, Exchange) else seen
        seen = aggregate.summary([observe(one) for one in each])
    require_asked(seen)
    return seen


def require_asked(seen: Observation) -> None:
    """Raise `LaunchError` if a request did not reach an engine. Such an error of the environment judges no finding."""
    if seen.kind == "not-asked":
        raise LaunchError(seen.said)


class UnservedError(LongctxError):
    """A request that a test needs was not served. *exchange* is its record."""

    def __init__(self, message: str, exchange: Exchange) -> None:
        super().__init__(message)
        self.exchange = exchange


def _share(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole


def _prefill_rate(usage: Usage, ttft_s: float | None) -> float | None:
    # Count only tokens that were computed: reading a cached prefix is not prefill.
    if usage.prompt_tokens is None or usage.cached_tokens is None or not ttft_s:
        return None
    return (usage.prompt_tokens - usage.cached_tokens) / ttft_s


def tally(exchanges: Sequence[Exchange]) -> Observation:
    """
    Return one observation of several exchanges: the first that was not served, or the number of exchanges with wrong
    token counts.
    """
    failed = [each for each in exchanges if each.ending != "complete"]
    # An unfinished request proves nothing, so prefer another failure.
    unserved = next((each for each in failed if ENDING_OUTCOMES[each.ending]), next(iter(failed), None))
    if unserved is not None:
        seen = unserved.observe()
        return replace(seen, said=f"{unserved.sent_tokens:,} tokens: {seen.said}")
    usages = [each.usage for each in exchanges]
    prompts = [each for each, usage in zip(exchanges, usages, strict=True) if usage.prompt_tokens != each.sent_tokens]
    answers = [
        each for each, usage in zip(exchanges, usages, strict=True) if usage.completion_tokens != each.asked_tokens
    ]
    metrics: dict[str, float | None] = {
        "requests": len(exchanges),
        "miscounted_prompts": len(prompts),
        "miscounted_answers": len(answers),
        **_by_counters(exchanges),
    }
    wrong = [
        f"sent {each.sent_tokens:,} and asked {each.asked_tokens:,} tokens, counted {_counted(each.usage)}"
        for each in (*prompts, *answers)
    ]
    return Observation("serves", metrics, phase="request", said="; ".join(wrong[:3]))


def _counted(usage: Usage) -> str:
    """Return the two token counts of *usage* as text."""
    prompt, answer = (
        "no" if count is None else f"{count:,}" for count in (usage.prompt_tokens, usage.completion_tokens)
    )
    return f"{prompt} and {answer}"


def _by_counters(exchanges: Sequence[Exchange]) -> dict[str, float | None]:
    """Return the counter metrics of several exchanges; empty if an exchange has no ledger, None for a missing counter."""
    ledgers = [each.ledger for each in exchanges if each.ledger is not None]
    if len(ledgers) < len(exchanges):
        return {}
    gaps = [
        ledger.gap_tokens(each.sent_tokens, each.asked_tokens) for each, ledger in zip(exchanges, ledgers, strict=True)
    ]
    known = [gap for gap in gaps if gap is not None]
    return {"ledger_gap_tokens": sum(known) if len(known) == len(gaps) else None}


def again(first: Exchange, second: Exchange) -> Observation:
    """
    Return the comparison of the second reading of a prompt with the first: the speed-up, and whether the answers are
    equal.
    """
    seen = second.observe()
    speedup = first.ttft_s / second.ttft_s if first.ttft_s and second.ttft_s else None
    return same_answer(replace(seen, metrics={**seen.metrics, "warm_speedup": speedup}), first, second)


def same_answer(seen: Observation, cold: Exchange, warm: Exchange) -> Observation:
    """
    Return *seen* with ``answers_changed``: 0 if the *warm* answer equals the *cold* answer to the same prompt,
    otherwise 1.

    The figure is None if an answer has neither text nor tokens, or if the answers differ where the cold one had two
    nearly equal choices.
    """
    if cold.ending != "complete" or warm.ending != "complete":
        return seen
    observed = bool((cold.tokens and warm.tokens) or cold.text or warm.text)
    found = first_difference(cold.tokens, warm.tokens, cold.text, warm.text) if observed else None
    changed = None if not observed or (found and found.tied) else float(found is not None)
    said = seen.said or (f"the answer differs from the cold one: {found}" if found else "")
    return replace(seen, metrics={**seen.metrics, "answers_changed": changed}, said=said)
