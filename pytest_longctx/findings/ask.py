"""What a finding asks of a server, as a table of its file."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from pytest_longctx import toml
from pytest_longctx.deployments.deployment import HardwareName

Arrivals = Literal["poisson", "constant"]
"""``poisson``: independent of each other, as from many clients; ``constant``: evenly spaced."""


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
    "logged-rate",
    "retrieval",
    "precision",
    "kv-dtype",
    "ratio",
    "haystack",
    "accuracy",
    "claimed",
    "linted",
]
"""What a suite does to judge a finding; one test function answers each."""


def questions() -> tuple[str, ...]:
    """Every question a suite can answer."""
    return get_args(Question)


class Ask(toml.Table):
    """What is sent."""

    prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    output_tokens: Annotated[int, Field(ge=1)] = 32
    requests: Annotated[int, Field(ge=1)] | None = None
    """For a load or an accounting: how many requests in all. For an accuracy: only the first so many questions of the task."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """How many of them at once, at most."""
    rate_per_s: Annotated[float, Field(gt=0)] | None = None
    """For a load, in place of concurrency: how many are sent a second, however slowly they are answered."""
    arrivals: Arrivals = "poisson"
    """How they come at that rate: at random as from many clients, or evenly."""
    goal_ttft_s: Annotated[float, Field(gt=0)] | None = None
    """For the goodput of a load: the longest TTFT of a request that counts as good."""
    goal_tpot_s: Annotated[float, Field(gt=0)] | None = None
    """The same for the time per token after the first."""
    turns: Annotated[int, Field(ge=2)] | None = None
    """For turns: how many a conversation has; each sends again all that was said before it."""
    turn_tokens: Annotated[int, Field(ge=1)] = 64
    """For turns: how much is new in each of them after the first, which has *prompt_tokens*."""
    lengths: Annotated[tuple[int, ...], toml.LISTED] = ()
    """For a ladder: the prompt lengths, at least three of them."""
    needles: Annotated[int, Field(ge=1, le=64)] = 64
    """For a retrieval: how many needles are planted, evenly from the first token to the last."""
    border_tokens: Annotated[int, Field(ge=2)] | None = None
    """For a retrieval: plant them on both sides of the borders between pieces of this size instead."""
    against: str | None = None
    """For a ratio: the deployment whose capacity divides that of the other; the finding's scope names both."""
    depths: Annotated[tuple[float, ...], toml.LISTED] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """For a haystack: where in the text the needle lies, at each of *lengths*."""
    runs: Annotated[int, Field(ge=1)] = 1
    """How many new prompts of each length are sent; the median is judged."""
    warm_up: Annotated[int, Field(ge=0)] = 0
    """How many more are sent before them, and not judged."""
    task: str | None = None
    """For an accuracy: a task of lm-eval, or of a folder ``tasks/`` beside ``findings/``."""
    shots: Annotated[int, Field(ge=0)] | None = None
    """For an accuracy: how many worked examples go before each question; left out: as the task says."""
    command: str | None = None
    """Of a start that was published: the ``docker run`` line, or a small script around it; what is in it is only read."""
    pod: str | None = None
    """Of a start that was published: the Pod, as JSON."""
    engine: str | None = None
    """The engine whose flags that start has."""
    boot_s: float | None = None
    """How long that boot took, where it was seen."""
    as_text: bool = False
    """For an over-limit: as a text of so many tokens, which the server may refuse by its characters before it tokenises it."""
    over_limit_tokens: int | None = None
    """How many tokens prompt and answer together go over max_model_len; 0 and less must still fit."""

    def prompt_length(self, max_model_len: int | None) -> int | None:
        """The longest prompt's length in tokens; None where it hangs on a max_model_len that is not known."""
        if self.lengths:
            return max(self.lengths)
        if self.over_limit_tokens is None:
            return self.prompt_tokens and self.prompt_tokens + self._said_since
        return None if max_model_len is None else max_model_len + self.over_limit_tokens - self.output_tokens

    @property
    def _said_since(self) -> int:
        """By how much the last turn of a conversation is longer than the first."""
        return ((self.turns or 1) - 1) * (self.output_tokens + self.turn_tokens)

    def every_request(self, max_model_len: int | None) -> tuple[int, ...]:
        """
        What each request may have to wait for, in prompt tokens, one after the other; empty where that is not known.

        A load counts as rounds in which every prompt waits for all that are sent with it; an open loop is one round.
        """
        if self.rate_per_s is not None and self.requests is not None and self.prompt_tokens is not None:
            return (self.prompt_tokens * self.requests,)
        if self.requests is not None and self.concurrency is not None and self.prompt_tokens is not None:
            return (self.prompt_tokens * self.concurrency,) * -(-self.requests // self.concurrency)
        return self.every_length(max_model_len)

    @property
    def arriving_s(self) -> float:
        """How long the requests of an open loop take to come, with room for chance; 0 for anything else."""
        return 2 * self.requests / self.rate_per_s if self.requests is not None and self.rate_per_s is not None else 0.0

    def every_length(self, max_model_len: int | None) -> tuple[int, ...]:
        """The length of every prompt that is sent one after the other; empty where that is not known."""
        length = self.prompt_length(max_model_len)
        once = self.lengths or ((length,) if length is not None else ())
        return once * self.runs + once[:1] * self.warm_up


class Claim(toml.Table):
    """Published figures that arithmetic can judge without a server; those left out were not published."""

    shape: str
    """The model, by its name in `pytest_longctx.deployments.shape.known`."""
    tokens: Annotated[int, Field(ge=1)]
    """The context they are about."""
    hardware: HardwareName | None = None
    value_bytes: Literal[1, 2] = 2
    """Bytes of a value in the KV cache and in the matrix units."""
    read_s: float | None = None
    """The time in which the whole context is said to have been read."""
    cached_tokens: int | None = None
    """How much of it a cache answered, by the log of that run."""
    logged_tokens_per_s: float | None = None
    kv_gib: float | None = None
    weights_gib: float | None = None
    """BF16 weights on one device."""
    moved_s: float | None = None
    """The time in which its KV cache is said to have been stored or loaded."""
    moved_gib_per_s: float | None = None
    slow_s: float | None = None
    fast_s: float | None = None
    speedup: float | None = None
    """How many times faster *fast_s* is said to be than *slow_s*."""


def missing(question: Question, ask: Ask, *, claimed: bool, bounded: bool) -> str:
    """What a finding with this *question* needs and does not have, as a sentence; empty where nothing is missing."""
    one_length = (
        (
            (ask.prompt_tokens is None) != (ask.over_limit_tokens is None),
            f"ask: a {question!r} finding needs either prompt_tokens or over_limit_tokens",
        ),
    )
    needs: dict[Question, tuple[tuple[bool, str], ...]] = {
        "served": one_length,
        "over-pool": one_length,
        "retrieval": one_length,
        "precision": one_length,
        "kv-dtype": one_length,
        "ratio": ((ask.against is not None, "ask.against: a 'ratio' finding needs the deployment it divides by"),),
        "haystack": ((bool(ask.lengths), "ask.lengths: a 'haystack' finding needs them"),),
        "over-limit": (
            (
                (ask.over_limit_tokens or 0) >= 1,
                "ask.over_limit_tokens: an 'over-limit' finding must go at least 1 token over",
            ),
        ),
        "repeated": ((ask.prompt_tokens is not None, "ask.prompt_tokens: a 'repeated' finding needs it"),),
        "turns": (
            (
                ask.prompt_tokens is not None and ask.turns is not None,
                "ask: a 'turns' finding needs prompt_tokens and turns",
            ),
        ),
        "reset": ((ask.prompt_tokens is not None, "ask.prompt_tokens: a 'reset' finding needs it"),),
        "logged-rate": ((ask.prompt_tokens is not None, "ask.prompt_tokens: a 'logged-rate' finding needs it"),),
        "disconnect": ((ask.prompt_tokens is not None, "ask.prompt_tokens: a 'disconnect' finding needs it"),),
        "load": (
            (ask.prompt_tokens is not None, "ask.prompt_tokens: a 'load' finding needs it"),
            (
                ask.requests is not None and (ask.concurrency is None) != (ask.rate_per_s is None),
                "ask: a 'load' finding needs requests, and either concurrency or rate_per_s",
            ),
            (
                ask.goal_tpot_s is None or ask.output_tokens > 1,
                "ask.goal_tpot_s: an answer of one token has no time per token after the first",
            ),
        ),
        "ladder": (
            (len(set(ask.lengths)) >= 3, "ask.lengths: a law of two terms is only tested by three lengths or more"),
        ),
        "accuracy": (
            (
                ask.task is not None and bounded,
                "an 'accuracy' finding needs ask.task, and bounds on what is to be right",
            ),
        ),
    }
    if claimed != (question == "claimed"):
        return "claim: a 'claimed' finding needs it, and no other has one"
    if (question == "linted") != ((ask.command is None) != (ask.pod is None)):
        return "ask: a 'linted' finding needs a command or a pod, and no other has one"
    return next((text for there, text in needs.get(question, ()) if not there), "")
