"""Run every check against one endpoint, cheap requests before expensive requests."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

from pytest_longctx.certificate import (
    answer_checks,
    count_checks,
    error_checks,
    length_checks,
    time_checks,
    truncation_checks,
)
from pytest_longctx.certificate.budget import Budget, OverBudget, Prices
from pytest_longctx.certificate.calibration import Ruler, by_asking, calibrate, uncounted
from pytest_longctx.certificate.dialects import Turn
from pytest_longctx.certificate.examination import Examination, Unaskable, find_dialects, list_models
from pytest_longctx.certificate.reply import Reply
from pytest_longctx.certificate.results import Result, checks, explained, unmeasured
from pytest_longctx.certificate.truncation_checks import REASONING_TOKENS
from pytest_longctx.certificate.wire import Limited, Wire, other_host
from pytest_longctx.client.server import KEY_VARIABLE
from pytest_longctx.errors import UsageError
from pytest_longctx.launchers.url import UrlLauncher
from pytest_longctx.observation import Observation
from pytest_longctx.prompts.tokenizer import ModelTokenizer
from pytest_longctx.redaction import checked_key, cleaned, remember, shown

Group = Callable[[Examination], Iterator[Result]]

_GROUPS: tuple[tuple[str, tuple[str, ...], Group], ...] = (
    ("recall", ("truncation-recall",), truncation_checks.recall),
    ("answers", ("answer",), answer_checks.judge),
    ("counting", ("count",), count_checks.judge),
    ("length", ("length",), length_checks.judge),
    ("truncation", ("truncation",), truncation_checks.judge),
    ("errors", ("error",), error_checks.judge),
    ("influence", ("truncation-influence",), truncation_checks.influence),
    ("time", ("time",), time_checks.judge),
    ("counts of the run", ("count",), count_checks.judge_whole),
    ("errors of the run", ("error",), error_checks.judge_whole),
    ("times of the run", ("time",), time_checks.judge_whole),
)
SMALL_REQUESTS = 110
"""Requests of a run other than those for the limit and for long texts, as measured on a miniature without faults."""
SMALL_TOKENS = 40_000
"""Tokens of these requests."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The results and the facts of one run against an endpoint."""

    url: str
    model: str | None
    started: str
    seed: int
    claim: int | None
    listed: int | None
    results: tuple[Result, ...]
    fields: dict[str, Any]
    context: int | None
    longest: int | None
    interval: str
    bounded: bool
    """Whether a longer prompt was refused. If not, the longest served prompt is not the limit."""
    words: int | None
    """The longest served prompt in filler words; None if prompts are counted in tokens."""
    read_tokens: int | None
    """The longest natural text that the model read completely."""
    budget: dict[str, Any]
    version: str = field(default_factory=partial(version, "pytest-longctx"))
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def count(self, word: str) -> int:
        """Return the number of checks with the verdict *word*."""
        return sum(each.word == word for each in self.results)

    @property
    def exit_status(self) -> int:
        """Exit status of the run: 0 if no check is broken, 1 if a check is broken, 2 if no check could be judged."""
        if self.count("broken"):
            return 1
        return 0 if self.count("holds") else 2

    def metrics(self) -> dict[str, float | None]:
        """
        Return the figures of the certificate that a finding can bound, by their names in `pytest_longctx.measures`;
        None if not measured.
        """
        return {
            "context_tokens": self.context,
            "longest_served_tokens": self.longest,
            "read_tokens": self.read_tokens,
            "broken_checks": self.count("broken"),
            "held_checks": self.count("holds"),
        }

    def observe(self) -> Observation:
        """Return the certificate as evidence for a verdict on a claim."""
        said = "; ".join(f"{each.check}: {each.seen}" for each in self.results if each.word == "broken")
        return Observation("serves" if self.count("holds") else None, self.metrics(), phase="request", said=said[:500])

    @property
    def headline(self) -> str:
        """The headline of the certificate: the served length."""
        if self.words is not None:
            return f"prompts of {self.words:,} filler words; the server does not report their tokens"
        if self.longest is None:
            return "no prompt of a measured length"
        if self.context is None or self.context == self.longest:
            by = self.fields.get("limit_of")
            more = f", limited by {by}" if by else "" if self.bounded else " or more"
            return f"prompts of {self.longest:,} tokens{more}"
        room = self.context - self.longest
        answer = "one" if room == 1 else f"{room:,}"
        return f"a context of {self.context:,} tokens: prompts of {self.longest:,} with an answer of {answer}"

    def as_json(self) -> dict[str, Any]:
        """Return the certificate as JSON data without secrets."""
        made: dict[str, Any] = {
            name: getattr(self, name) for name in self.__slots__ if name not in ("results", "secrets")
        }
        made["verdicts"] = {word: self.count(word) for word in ("holds", "broken", "unmeasured")}
        made["results"] = [each.as_json() for each in self.results]
        plain: dict[str, Any] = cleaned(made, self.secrets)
        return plain


@dataclass(frozen=True, slots=True)
class Wanted:
    """The user's request for a certificate."""

    url: str
    model: str | None = None
    claim: int | None = None
    budget: Budget = field(default_factory=Budget)
    key_name: str = KEY_VARIABLE
    seed: int | None = None
    vocabulary: ModelTokenizer | None = None
    deadline_s: float = 600.0
    dialect: str | None = None
    """The dialect to use; None to use the first one that is served."""

    def wire(self) -> Wire:
        """Return a connection to the requested endpoint. Raises `UsageError` for an unusable address or key."""
        try:
            place = UrlLauncher(self.url)
        except UsageError as problem:
            said = str(problem).partition(": ")[2].replace("url:http", "http")
            raise UsageError(f"longctx certify {shown(self.url)}: {said}") from None
        key = checked_key(os.environ.get(self.key_name), self.key_name)
        hidden = (*place.hidden, *((key,) if key else ()))
        remember(hidden)
        headers = {"Authorization": f"Bearer {key}"} if key else dict(place.headers)
        return Wire(place.base, self.budget, headers, hidden, place.local, self.deadline_s)


def plan(wanted: Wanted, host: str) -> Iterator[str]:
    """Yield lines that state, before any request, the most that a certificate run would send, and its cost."""
    budget = wanted.budget
    limit = f"{budget.tokens:,} tokens" if budget.tokens is not None else f"${budget.money:,.2f}"
    yield f"longctx certify {host}: at most {limit} will be sent, including refused and repeated requests"
    claim = wanted.claim
    yield f"  small requests    about {SMALL_REQUESTS}, {SMALL_TOKENS:,} tokens in total"
    if claim:
        yield f"  the limit         2 to 8 of {claim:,} tokens, or fewer as the budget allows"
        yield f"  long texts        2 of {claim:,} tokens in total, and shorter ones"
    else:
        yield "  the limit         by steps of a factor of 4 from 4,096 tokens, within 60 % of the budget"
        yield "  long texts        2 near the limit that is found, and shorter ones"
    yield f"  answers           at most 256 tokens each, about {40 * SMALL_REQUESTS:,} in total"
    yield f"                    (for a reasoning model, {REASONING_TOKENS:,} more in each answer with codes)"
    most = budget.tokens if budget.tokens is not None else None
    cost = budget.money if most is None else _most_cost(budget.prices, most)
    known = f"at most ${cost:,.2f}" if cost is not None else "not known without --price-in and --price-out"
    yield f"  cost              {known}"


def _most_cost(prices: Prices, tokens: int) -> float | None:
    answers = min(tokens, (256 + REASONING_TOKENS) * 2 * SMALL_REQUESTS)
    return prices.cost(tokens - answers, answers)


def certify(wanted: Wanted, wire: Wire, watch: Callable[[str], object] = str) -> Certificate:
    """
    Run every check against one endpoint, and return the certificate.

    Raises `Unaskable` if the endpoint serves no dialect, and `OverBudget` if the budget is too small to start.
    """
    seed = wanted.seed if wanted.seed is not None else int.from_bytes(os.urandom(4))
    exam = Examination(
        wire, wanted.model, wanted.claim, seed, "Authorization" in wire.headers, vocabulary=wanted.vocabulary
    )
    started = datetime.now(UTC).isoformat(timespec="seconds")
    because = ""
    try:
        because = _begin(exam, wanted.dialect)
        for name, prefixes, group in _GROUPS:
            if because and not name.endswith("of the run"):
                continue
            watch(f"{name}: {wire.budget.requests} requests, {wire.budget.spent:,} tokens sent")
            _run(exam, prefixes, group)
    finally:
        wire.close()
    return _certificate(exam, started, because)


def _begin(exam: Examination, dialect: str | None) -> str:
    """
    Find the dialect and the calibration. Return an explanation if the first answers already decide all checks; empty if
    not.
    """
    try:
        list_models(exam)
        find_dialects(exam, dialect)
        exam.ruler = _ruler(exam)
    except Limited as problem:
        return str(problem)
    except Unaskable:
        if any(each.ending == "redirected" and other_host(exam.wire.base, each.location) for each in exam.wire.replies):
            return "the API redirects to another host; the redirect was not followed"
        raise
    return ""


def _ruler(exam: Examination) -> Ruler:
    last: list[Reply] = []

    def ask(turns: tuple[Turn, ...], _: int, *, stream: bool) -> Reply:
        last[:] = [exam.ask(turns, 1, stream=stream)]
        return last[0]

    ways = [("usage", by_asking(partial(ask, stream=False)))]
    if exam.streams:
        ways.append(("the usage in streams", by_asking(partial(ask, stream=True))))
    if exam.vocabulary is not None:
        ways.append(("the tokenizer, without a chat template", partial(_by_tokenizer, exam.vocabulary)))
    for source, count in ways:
        if ruler := calibrate(exam.rng, count, source):
            return ruler
    return uncounted("the server reports no usage" if last[0].served else last[0].said)


def _by_tokenizer(vocabulary: ModelTokenizer, turns: tuple[Turn, ...], _: int) -> int:
    return vocabulary.count("\n".join(text for _, text in turns), special=True)


def _run(exam: Examination, prefixes: tuple[str, ...], group: Group) -> None:
    """Run one group of checks. A check that could not be judged is unmeasured."""
    try:
        for result in group(exam):
            exam.results.append(result)
    except (Limited, OverBudget) as problem:
        done = {each.check for each in exam.results}
        late = {"count-present", "count-long", *(name for name in checks() if name.startswith(("error-", "time-")))}
        exam.results += [
            unmeasured(name, str(problem))
            for name in checks()
            if name not in done and name not in late and name.startswith(prefixes)
        ]


def _certificate(exam: Examination, started: str, because: str) -> Certificate:
    budget, limit = exam.wire.budget, exam.facts.get("limit")
    by_name = {each.check: each for each in exam.results}
    longest = limit.longest if limit else None
    counted = limit is not None and exam.ruler.counted
    results = explained(by_name.get(name) or unmeasured(name, because or "it was not reached") for name in checks())
    return Certificate(
        url=exam.wire.base,
        model=exam.model,
        started=started,
        seed=exam.seed,
        claim=exam.claim,
        listed=exam.listed,
        results=tuple(results),
        fields=exam.fields,
        context=limit.context if limit and counted else None,
        longest=longest if counted else None,
        bounded=limit is not None and limit.fails is not None,
        words=None if counted else longest,
        interval=because or exam.ruler.interval,
        read_tokens=exam.facts.get("read_tokens") if counted else None,
        budget={
            "requests": budget.requests,
            "prompt_tokens": budget.prompt_tokens,
            "answer_tokens": budget.answer_tokens,
            "limit_tokens": budget.tokens,
            "limit_money": budget.money,
            "cost": budget.cost,
        },
        secrets=exam.wire.secrets,
    )
