"""
Send one prompt alone, in batches and after prefix-cache hits, and check that all answers are bit-identical.

If an engine's kernels depend on the shape of a batch, other requests in the batch change its log-probabilities, and
also its tokens where two choices are nearly equal. vLLM's batch-invariant mode and SGLang's deterministic mode promise
the same answer in every batch.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from pytest_longctx.client.answer_tokens import Token
from pytest_longctx.client.exchange import Exchange
from pytest_longctx.client.server import Server
from pytest_longctx.client.state_paths.tasks import Task
from pytest_longctx.client.state_paths.walk import Walk
from pytest_longctx.errors import ResultsError
from pytest_longctx.findings.ask import Ask
from pytest_longctx.observation import Observation
from pytest_longctx.processes.progress import ProgressCallback
from pytest_longctx.prompts import Prompt, PromptFactory

_FORM: Final = 1
BATCHES: Final = (8, 50)
"""Number of prompts sent at once. The compared one is in the middle."""
_SHARED: Final = 2
"""Share of the prompt that an earlier prompt also had: one half."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to the prompt, and the conditions of its request."""

    how: str
    tokens: tuple[Token, ...]
    text: str = ""
    cached_tokens: int | None = None

    @classmethod
    def of(cls, how: str, exchange: Exchange) -> "Answer":
        """Return the answer of an *exchange*."""
        return cls(how, exchange.tokens, exchange.text, exchange.usage.cached_tokens)


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of one server to one prompt. Every answer is compared with the first, whose request ran alone."""

    prompt: str
    """Digest of the prompt."""
    each: tuple[Answer, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    """The server and the time, as text."""


def ask(server: Server, draw: PromptFactory, asked: Ask, watch: ProgressCallback, *, natural: bool) -> Answers:
    """
    Return the answers of *server* to the same prompt alone, in batches, and after cache hits.

    *draw* makes the prompts, of *natural* text or of random ids. Raises `UnservedError` for the first request that is
    not served, and `UnwalkableError` if the cache cannot be emptied.
    """
    one = Walk(server, draw, asked, watch)
    length = asked.prompt_tokens or 1
    make = draw.natural if natural else draw
    task, other = Task(make(length), asked.output_tokens), Task(make(length), asked.output_tokens)
    found = [Answer.of(how, one.cold([task])[0]) for how in ("alone", "alone again")]
    for size in BATCHES:
        company = [Task(make(length), asked.output_tokens) for _ in range(size - 1)]
        whole = [*company[: size // 2], task, *company[size // 2 :]]
        found.append(Answer.of(f"in a batch of {size}", one.cold(whole)[size // 2]))
    found += _warm(one, task, other)
    return Answers(task.prompt.digest, tuple(found))


def _warm(one: Walk, task: Task, other: Task) -> list[Answer]:
    """
    Return answers to *task* after two cache hits: of the whole prompt, and of its first half, shared with a prompt that
    ends as *other*.
    """
    if not one.server.backend.salted:
        one.reset()
    salts = [one.fresh_salt() if one.server.backend.salted else "" for _ in range(2)]
    one.read(task, salt=salts[0], judged=False)
    hit = one.read(task, salt=salts[0], judged=False).exchange
    if not one.server.backend.salted:
        one.reset()
    half = len(task.prompt) // _SHARED
    ids = other.prompt.ids.copy()
    ids[:half] = task.prompt.ids[:half]
    one.read(replace(other, prompt=Prompt(ids, other.prompt.seed, other.prompt.key)), salt=salts[1], judged=False)
    part = one.read(task, salt=salts[1], judged=False).exchange
    return [Answer.of("after a hit of the whole prompt", hit), Answer.of("after a hit of its first half", part)]


@dataclass(frozen=True, slots=True)
class Mismatched:
    """The difference between one answer and the first answer."""

    token: int | None
    """Index of the first token that differs; None if all are equal."""
    logprob_at: int | None
    """
    Index of the first equal token whose log-probability differs; None if all comparable tokens have equal ones.
    """
    gap_nats: float
    """Largest difference between log-probabilities of equal tokens."""
    first: str = ""
    second: str = ""


def mismatched(first: Sequence[Token], second: Sequence[Token]) -> Mismatched:
    """
    Return the difference of *second* from *first*. Tokens after the first difference cannot be compared.

    >>> mismatched([Token("a", -1.0), Token("b", -2.0)], [Token("a", -1.5), Token("c", -2.0)])
    Mismatched(token=1, logprob_at=0, gap_nats=0.5, first='b', second='c')
    """
    gap, logprob_at = 0.0, None
    for at, (one, other) in enumerate(zip_longest(first, second)):
        if one is None or other is None or one.name != other.name:
            names = (each.name if each else "the end" for each in (one, other))
            return Mismatched(at, logprob_at, gap, *names)
        for a, b in ((one.logprob, other.logprob), (one.runner_up, other.runner_up)):
            if a is not None and b is not None and a != b:
                logprob_at = at if logprob_at is None else logprob_at
                gap = max(gap, abs(a - b))
    return Mismatched(None, logprob_at, gap)


def compare(answers: Answers, others: Answers | None = None) -> Observation:
    """
    Return the evidence: each answer compared with the first, and the first answer of *others*, a server with other
    chunk sizes.

    Raises `ResultsError` if the other server got another prompt.
    """
    if others is not None and others.prompt != answers.prompt:
        raise ResultsError("the two servers answered different prompts")
    first, *rest = answers.each
    name = others.facts.get("deployment", "the other deployment") if others else ""
    rest += [replace(others.each[0], how=f"alone on {name}")] if others else []
    if not all(each.tokens for each in (first, *rest)):
        return Observation(None, phase="request", said="the server returned no log-probabilities of its answers")
    found = [(each, mismatched(first.tokens, each.tokens)) for each in rest]
    tokens = [each.token for _, each in found if each.token is not None]
    bits = [each.logprob_at for _, each in found if each.logprob_at is not None]
    hits = [each.cached_tokens for each in rest if "hit" in each.how]
    metrics: dict[str, float | None] = {
        "answers_compared": len(rest),
        "answers_differing": len(tokens),
        "logprobs_differing": sum(each.logprob_at is not None or each.token is not None for _, each in found),
        "repeat_gap_nats": max(each.gap_nats for _, each in found),
        "first_differing_token": min(tokens, default=None),
        "first_differing_logprob": min(bits, default=None),
        "hits_taken": None if None in hits else sum(bool(cached) for cached in hits),
    }
    said = "; ".join(_place(answer.how, each) for answer, each in found if each.token is not None or each.gap_nats)
    return Observation("serves", metrics, phase="request", said=said)


def _place(how: str, found: Mismatched) -> str:
    """Return the place of the difference between an answer and the first one, as text."""
    bits = f"log-probabilities from token {found.logprob_at} on, by {found.gap_nats:.3g} nats at most"
    if found.token is None:
        return f"{how}: {bits}"
    tokens = f"{how}: token {found.token} is {found.second!r} instead of {found.first!r}"
    return tokens if found.logprob_at is None else f"{tokens}; {bits}"


def save(answers: Answers, path: Path) -> None:
    """Write *answers* to *path*, with the facts of the server."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"form": _FORM, **asdict(answers)}), encoding="utf-8")


def load(path: Path) -> Answers:
    """Return the answers from the file *path*. Raises `ResultsError` if the file has none."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        each = tuple(
            Answer(one["how"], tuple(Token(**token) for token in one["tokens"]), one["text"], one["cached_tokens"])
            for one in found["each"]
        )
        if found["form"] != _FORM or not each:
            raise ValueError(f"the file has the format {found['form']} and {len(each)} answers")  # noqa: TRY301 - one message for all
        return Answers(found["prompt"], each, dict(found["facts"]))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as problem:
        raise ResultsError(f"{path}: must be a file of answers of a 'repeatable' finding: {problem}") from None


def path_of(folder: Path, deployment: str, asked: Ask) -> Path:
    """Return the path in *folder* for the answers of *deployment* to the question *asked*."""
    digest = hashlib.sha256(f"{asked.prompt_tokens} {asked.output_tokens}".encode()).hexdigest()[:8]
    return folder / f"{deployment}.{digest}.json"
