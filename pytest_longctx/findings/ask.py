"""The requests of a finding: the ``[ask]`` table, and the ``[claim]`` table of published figures."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, get_args

from pydantic import Field

from pytest_longctx import toml
from pytest_longctx.deployments.deployment import HardwareName
from pytest_longctx.errors import unknown
from pytest_longctx.prompts.ruler.tasks import TASKS

Arrivals = Literal["poisson", "constant"]
"""``poisson``: independent arrivals, as from many clients. ``constant``: evenly spaced."""


Form = Literal["ids", "text", "chat"]
"""How a prompt is sent: as token ids or as text for completions, or as a message through the chat template."""


Question = Literal[
    "boots",
    "boot-fails",
    "served",
    "over-limit",
    "over-pool",
    "longest",
    "accounting",
    "repeated",
    "turns",
    "reset",
    "ladder",
    "load",
    "disconnect",
    "path",
    "logged-rate",
    "retrieval",
    "precision",
    "kv-dtype",
    "ratio",
    "drift",
    "repeatable",
    "haystack",
    "continuations",
    "ruler",
    "accuracy",
    "claimed",
    "linted",
    "certified",
]
"""The test that judges a finding. The suites have one test function for each."""


Path = Literal[
    "cold",
    "repeated",
    "block-border",
    "chunk-border",
    "window-border",
    "extended",
    "branch",
    "evicted",
    "preempted",
    "reset",
    "other-salt",
    "crowd",
    "abandoned",
    "external",
    "speculation",
    "chunks",
    "stored-dtype",
    "same-at-once",
    "lengths",
    "arriving",
    "leaving",
    "cancelled",
    "decode-border",
    "reused",
    "other-beginning",
]
"""A way in which an engine builds or reuses a KV cache; see `pytest_longctx.client.state_paths`."""


QUESTIONS: Mapping[Question, str] = MappingProxyType(
    {
        "boots": "does the server boot, with the figures of its log within the bounds?",
        "boot-fails": "does the boot fail as documented?",
        "served": "is a new prompt of this length served, counted and answered in time?",
        "over-limit": "is a request beyond max_model_len refused?",
        "over-pool": "what happens to a request that the KV cache cannot hold, and to the next one?",
        "longest": "what is the longest prompt that is served?",
        "accounting": "are tokens counted exactly on both sides of every boundary?",
        "repeated": "does a repeated prompt come from the cache, with the same answer?",
        "turns": "do the later turns of a conversation come from the cache?",
        "reset": "is the prefix cache empty after a reset?",
        "ladder": "what are a and b in t = a N + b N^2, the time of a prefill of N tokens?",
        "load": "are many requests answered, at which rates and with which delays?",
        "disconnect": "does the server stop when the client disconnects?",
        "path": "is the answer the same, however the KV cache was filled?",
        "logged-rate": "does the throughput in the log agree with the client's?",
        "retrieval": "does the answer depend on distant tokens, and is it right?",
        "precision": "how many mantissa bits of a key does the KV cache keep?",
        "kv-dtype": "is this KV-cache dtype refused, ignored or applied?",
        "ratio": "how much more does one deployment hold than another?",
        "drift": "how far are the model's predictions from those of another deployment?",
        "repeatable": "is the answer bit-identical alone, beside other requests, and after prefix cache hits?",
        "haystack": "is a fact found in natural text?",
        "continuations": "are sentences continued as only a working model continues them?",
        "ruler": "what score do the answers to a RULER task reach?",
        "accuracy": "how many questions of a task are answered correctly?",
        "claimed": "are the published figures arithmetically possible? No server is started",
        "linted": "does a lint find a mistake in the published start? No server is started",
    }
)
"""A one-line description of each question."""


TEXTS = 4
"""Number of texts of a 'drift' finding that sets none."""


def questions() -> tuple[str, ...]:
    """Return every question that a finding can have and a suite can answer."""
    return get_args(Question)


class Ask(toml.Table):
    """Parameters of the requests that a finding sends."""

    prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    output_tokens: Annotated[int, Field(ge=1)] = 32
    requests: Annotated[int, Field(ge=1)] | None = None
    """
    For a load or an accounting: the total number of requests.

    For an accuracy: only the first questions of the task. For a drift: the number of texts.
    """
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of concurrent requests."""
    rate_per_s: Annotated[float, Field(gt=0)] | None = None
    """For a load, instead of concurrency: requests per second, however fast they are answered."""
    arrivals: Arrivals = "poisson"
    """Distribution of arrivals at that rate: random as from many clients, or evenly spaced."""
    goal_ttft_s: Annotated[float, Field(gt=0)] | None = None
    """For the goodput of a load: the longest TTFT of a good request."""
    goal_tpot_s: Annotated[float, Field(gt=0)] | None = None
    """For the goodput of a load: the longest time per output token of a good request."""
    turns: Annotated[int, Field(ge=2)] | None = None
    """For turns: number of turns of a conversation. Each sends all previous ones again."""
    turn_tokens: Annotated[int, Field(ge=1)] = 64
    """For turns: new tokens of each turn after the first, which has *prompt_tokens*."""
    lengths: Annotated[tuple[int, ...], toml.LISTED] = ()
    """For a ladder: the prompt lengths, at least three of them. For a haystack or a task of RULER: at least one."""
    needles: Annotated[int, Field(ge=1, le=64)] = 64
    """For a retrieval: number of needles, spaced evenly from the first token to the last."""
    border_tokens: Annotated[int, Field(ge=2)] | None = None
    """For a retrieval: place the needles on both sides of boundaries between chunks of this size instead."""
    against: str | None = None
    """
    For a ratio: the deployment whose capacity is the denominator. For a drift: the reference, which may be the same
    deployment.

    For a repeatable: a deployment with other chunk sizes, whose answer must be the same. The finding's scope names
    both.
    """
    depths: Annotated[tuple[float, ...], toml.LISTED] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """For a haystack: relative positions of the needle in the text, at each of *lengths*."""
    form: Form = "ids"
    """
    For an accounting, a haystack or a task of RULER: how the prompts are sent. A haystack is sent as ids or as a chat.
    """
    continuations: dict[str, str] = Field(default_factory=dict)
    """For continuations: maps each text to the first words of its only correct continuation."""
    runs: Annotated[int, Field(ge=1)] = 1
    """
    Number of new prompts of each length. The median is judged.

    For a task of RULER, the mean score of all prompts is judged. For a drift, it is the number of repeats, each with two reads
    of each text.
    """
    warm_up: Annotated[int, Field(ge=0)] = 0
    """Number of additional prompts that are sent first and not judged."""
    task: str | None = None
    """
    For an accuracy: a task of lm-eval, or of a folder ``tasks/`` beside ``findings/``. For ruler: one of its thirteen
    tasks.
    """
    shots: Annotated[int, Field(ge=0)] | None = None
    """For an accuracy: worked examples before each question; by default the task's own number."""
    command: str | None = None
    """For a published start: the ``docker run`` line, or a short script around it. It is parsed, never executed."""
    pod: str | None = None
    """For a published start: the Pod, as JSON."""
    engine: str | None = None
    """For a published start: the engine that its flags belong to."""
    boot_s: float | None = None
    """For a published start: its boot time, if it was measured."""
    path: Path | None = None
    """For a path: the way in which the KV cache of a prompt is built or reused. The answer must equal the cold one."""
    text: str | None = None
    """
    For a served prompt: this text instead of random ids. *prompt_tokens* is its length in tokens, special ones
    included.
    """
    as_text: bool = False
    """
    For an over-limit: send text of this many tokens. The server may refuse it by its characters before tokenization.
    """
    over_limit_tokens: int | None = None
    """Tokens by which prompt and answer exceed max_model_len. At 0 or less they must still fit."""

    def prompt_length(self, max_model_len: int | None) -> int | None:
        """Return the length in tokens of the longest prompt of a finding; None if it depends on an unknown max_model_len."""
        if self.lengths:
            return max(self.lengths)
        if self.over_limit_tokens is None:
            return self.prompt_tokens and self.prompt_tokens + self._said_since
        return None if max_model_len is None else max_model_len + self.over_limit_tokens - self.output_tokens

    @property
    def _said_since(self) -> int:
        """The number of tokens by which the last turn of a conversation is longer than the first."""
        return ((self.turns or 1) - 1) * (self.output_tokens + self.turn_tokens)

    def every_request(self, max_model_len: int | None) -> tuple[int, ...]:
        """
        Return the number of prompt tokens for which each successive request may have to wait; empty if unknown.

        A load counts as rounds in which every prompt waits for all prompts sent with it. An open loop is one round.
        """
        if self.rate_per_s is not None and self.requests is not None and self.prompt_tokens is not None:
            return (self.prompt_tokens * self.requests,)
        if self.requests is not None and self.concurrency is not None and self.prompt_tokens is not None:
            return (self.prompt_tokens * self.concurrency,) * -(-self.requests // self.concurrency)
        return self.every_length(max_model_len)

    @property
    def arriving_s(self) -> float:
        """
        The seconds over which the requests of an open loop arrive, with a margin for random arrivals; 0 for other
        loads.
        """
        return 2 * self.requests / self.rate_per_s if self.requests is not None and self.rate_per_s is not None else 0.0

    def every_length(self, max_model_len: int | None) -> tuple[int, ...]:
        """Return the length of every prompt that is sent sequentially; empty if unknown."""
        length = self.prompt_length(max_model_len)
        once = self.lengths or ((length,) if length is not None else ())
        return once * self.runs + once[:1] * self.warm_up


NumberFormat = Literal["e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz"]
"""``fn``: without infinities. ``fnuz``: also without a negative zero, as AMD's MI300X computes."""


class Claim(toml.Table):
    """Published figures that arithmetic can check without a server; None for a figure that was not published."""

    shape: str | None = None
    """The model, by its name in `pytest_longctx.deployments.shape.known`."""
    tokens: Annotated[int, Field(ge=1)] | None = None
    """Context length of the claim."""
    hardware: HardwareName | None = None
    value_bytes: Literal[1, 2] = 2
    """Bytes per value in the KV cache and in the matrix units."""
    read_s: float | None = None
    """Claimed time to prefill the whole context."""
    cached_tokens: int | None = None
    """Tokens from a cache, according to the log of that run."""
    logged_tokens_per_s: float | None = None
    kv_gib: float | None = None
    weights_gib: float | None = None
    """BF16 weights on one device."""
    moved_s: float | None = None
    """Claimed time in seconds to store or load the prompt's KV cache."""
    moved_gib_per_s: float | None = None
    slow_s: float | None = None
    fast_s: float | None = None
    speedup: float | None = None
    """Claimed ratio of *slow_s* to *fast_s*."""
    number_format: NumberFormat | None = None
    """An eight-bit format, by its name in PyTorch without ``float8_``."""
    largest: float | None = None
    """Claimed largest value of *number_format*."""


def missing(question: Question, ask: Ask, *, claimed: bool, bounded: bool) -> str:
    """Return the key of ``[ask]`` that is missing or contradicts another for *question*; empty if all are right."""
    one_length = (
        (
            (ask.prompt_tokens is None) != (ask.over_limit_tokens is None),
            f"ask: a {question!r} finding needs either prompt_tokens or over_limit_tokens",
        ),
    )
    needs: dict[Question, tuple[tuple[bool, str], ...]] = {
        **_of_two(ask),
        "served": one_length,
        "over-pool": one_length,
        "retrieval": one_length,
        "precision": one_length,
        "kv-dtype": one_length,
        "haystack": (
            (bool(ask.lengths), "ask.lengths: a 'haystack' finding needs lengths"),
            (ask.form != "text", "ask.form: a haystack is sent as ids or as a chat"),
        ),
        "ruler": _ruler(ask),
        "continuations": ((bool(ask.continuations), "ask.continuations: a 'continuations' finding needs texts"),),
        "over-limit": (
            (
                (ask.over_limit_tokens or 0) >= 1,
                "ask.over_limit_tokens: an 'over-limit' finding needs at least 1",
            ),
        ),
        "repeated": ((ask.prompt_tokens is not None, "ask.prompt_tokens: a 'repeated' finding needs this key"),),
        "turns": (
            (
                ask.prompt_tokens is not None and ask.turns is not None,
                "ask: a 'turns' finding needs prompt_tokens and turns",
            ),
        ),
        "reset": ((ask.prompt_tokens is not None, "ask.prompt_tokens: a 'reset' finding needs this key"),),
        "logged-rate": ((ask.prompt_tokens is not None, "ask.prompt_tokens: a 'logged-rate' finding needs this key"),),
        "path": ((bool(ask.path and ask.prompt_tokens), "ask: a 'path' finding needs path and prompt_tokens"),),
        "disconnect": ((ask.prompt_tokens is not None, "ask.prompt_tokens: a 'disconnect' finding needs this key"),),
        "load": (
            (ask.prompt_tokens is not None, "ask.prompt_tokens: a 'load' finding needs this key"),
            (
                ask.requests is not None and (ask.concurrency is None) != (ask.rate_per_s is None),
                "ask: a 'load' finding needs requests, and either concurrency or rate_per_s",
            ),
            (
                ask.goal_tpot_s is None or ask.output_tokens > 1,
                "ask.goal_tpot_s: an answer of one token has no time per token after the first",
            ),
        ),
        "ladder": ((len(set(ask.lengths)) >= 3, "ask.lengths: a formula with two terms needs at least three lengths"),),
        "accuracy": (
            (
                ask.task is not None and bounded,
                "an 'accuracy' finding needs ask.task, and bounds on an accuracy",
            ),
        ),
    }
    lacking = next((text for there, text in needs.get(question, ()) if not there), "")
    return _out_of_place(question, ask, claimed=claimed) or lacking


def _ruler(ask: Ask) -> tuple[tuple[bool, str], ...]:
    """
    Return the missing keys of a finding about a task of RULER: its name, lengths, or the published number of answer
    tokens.
    """
    task = TASKS.get(ask.task or "")
    least = task.output_tokens if task else 0
    return (
        (task is not None, f"ask.task: {unknown('RULER task', ask.task or '', TASKS)}"),
        (bool(ask.lengths), "ask.lengths: a 'ruler' finding needs lengths"),
        (
            ask.output_tokens >= least,
            f"ask.output_tokens: {ask.task} is scored on answers of {least} tokens, and {ask.output_tokens} are asked for",
        ),
    )


def _of_two(ask: Ask) -> dict[Question, tuple[tuple[bool, str], ...]]:
    """Return the missing keys in the *ask* of a finding about two deployments, by question."""
    return {
        "ratio": ((ask.against is not None, "ask.against: a 'ratio' finding needs the deployment in the denominator"),),
        "drift": (
            (
                (ask.prompt_tokens or 0) >= 2 and ask.against is not None,
                "ask: a 'drift' finding needs prompt_tokens, at least 2, and against",
            ),
        ),
        "repeatable": ((ask.prompt_tokens is not None, "ask.prompt_tokens: a 'repeatable' finding needs this key"),),
    }


def _out_of_place(question: Question, ask: Ask, *, claimed: bool) -> str:
    """Return a sentence about a key that only other questions than *question* have; empty without such a key."""
    if ask.text is not None and (question != "served" or ask.prompt_tokens is None):
        return "ask.text: only a 'served' finding may have it, and prompt_tokens says how long it is"
    if ask.form != "ids" and question not in ("accounting", "haystack", "ruler"):
        return "ask.form: only an 'accounting', a 'haystack' or a 'ruler' finding may have it"
    if claimed != (question == "claimed"):
        return "claim: a 'claimed' finding needs this key, and no other finding may have it"
    if (question == "linted") != ((ask.command is None) != (ask.pod is None)):
        return "ask: a 'linted' finding needs a command or a pod, and no other finding may have one"
    return ""
