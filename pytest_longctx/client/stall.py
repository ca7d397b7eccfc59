"""
Is a request or a boot still at work? Rules on what was seen to move, without a clock of their own, so that hours can be replayed.

What moves is a part of the prompt that is taken, a chunk of the answer, a counter, the use of the KV cache, or the log. How
many requests run says nothing: a server that stands still goes on counting them.
"""

from dataclasses import dataclass, field, fields
from typing import Final

from pytest_longctx.client.server_metrics import Reading
from pytest_longctx.units import duration

SLOWER: Final = 3.0
"""How many times longer than the longest step so far the next one may take: the later chunks of a prompt cost more."""
_ONE_STEP: Final = 2
"""
Movements of the gauges from which a prompt is known to be read in several steps.

The first may be the cache that was taken for the whole of it, which a server without chunked prefill then reads in silence.
"""
_COUNTS_REQUESTS: Final = ("answered", "running", "waiting")


def moved(before: Reading, now: Reading) -> str | None:
    """Which figure differs between two pages, None where none does: what only one of them has does not tell."""
    then, value = _figures(before), _figures(now)
    return next((name for name in then if name in value and value[name] != then[name]), None)


def can_move(page: Reading) -> bool:
    """Whether there is anything on *page* that would move with the work."""
    return bool(_figures(page))


def _figures(page: Reading) -> dict[str, float]:
    known = {each.name: getattr(page, each.name) for each in fields(page) if each.name not in _COUNTS_REQUESTS}
    return {name: value for name, value in known.items() if value is not None}


@dataclass(slots=True)
class Stall:
    """What one request, or one boot, was seen to do; it has stalled once nothing has moved for `limit_s`."""

    stall_s: float
    started_s: float
    one_step_s: float = 0.0
    """How much longer it may be silent before it is known to work in steps: what the whole prompt takes at the slowest rate."""
    every_step_moves: bool = True
    """Whether what can be seen moves with every step of a prefill; a cache of windows alone is full long before the end."""
    last: str | None = None
    """What moved last; None: nothing has."""
    steps: int = 0
    moved_s: float = field(init=False)
    _longest_s: float = 0.0

    def __post_init__(self) -> None:
        self.moved_s = self.started_s

    def move(self, now_s: float, what: str, *, step: bool = True) -> None:
        """Something moved; *step*: it is a part of the work, and not only of its beginning."""
        if step and self.steps:
            self._longest_s = max(self._longest_s, now_s - self.moved_s)
        self.steps += step
        self.moved_s, self.last = now_s, what

    def limit_s(self, *, stepwise: bool = False) -> float:
        """How long it may be silent now; *stepwise*: it is known to work in steps."""
        usual_s = max(self.stall_s, SLOWER * self._longest_s)
        in_steps = stepwise or (self.every_step_moves and self.steps >= _ONE_STEP)
        return usual_s if in_steps else usual_s + self.one_step_s

    def look(self, now_s: float, *, stepwise: bool = False) -> str | None:
        """Why it has stalled; None: it has not, or not yet."""
        silent_s, limit_s = now_s - self.moved_s, self.limit_s(stepwise=stepwise)
        if silent_s <= limit_s:
            return None
        last = "nothing had moved before" if self.last is None else f"{self.last} had moved last"
        return f"nothing moved for {duration(silent_s)}, and {duration(limit_s)} are allowed; {last}"


@dataclass(frozen=True, slots=True)
class Pace:
    """How far a request had come when its time was up."""

    elapsed_s: float
    budget_s: float
    silent_s: float
    """Since something moved last."""
    prompt_tokens: int
    output_tokens: int
    read_tokens: float | None = None
    """Of the prompt, as far as the server tells; None: it does not."""
    chunks: int = 0
    answering_s: float = 0.0
    """From the first chunk to the last."""

    def __str__(self) -> str:
        if self.chunks > 1 and self.answering_s > 0:
            rate, done_s = (self.chunks - 1) / self.answering_s, self.elapsed_s - self.answering_s
            speed, needs_s = f"{rate:,.3g} chunks/s of the answer", done_s + self.output_tokens / rate
        elif self.read_tokens and not self.chunks:
            rate = self.read_tokens / self.elapsed_s
            speed, needs_s = f"{rate:,.4g} tokens/s", self.prompt_tokens / rate
        else:
            return f"too slow here: still at work, {self._moved}; budget {duration(self.budget_s)}"
        if needs_s <= self.elapsed_s:  # no more is known than that it was not over
            return f"too slow here: {speed}, {self._moved}; budget {duration(self.budget_s)}"
        return (
            f"too slow here: {speed}, would take {duration(needs_s)}; budget {duration(self.budget_s)}; {self._moved}"
        )

    @property
    def _moved(self) -> str:
        return f"something moved {duration(self.silent_s)} before the end"


REQUEST_REMEDY: Final = (
    "try a longer timeouts.answer_s or a lower slowest_prefill_tokens_per_s in the deployment, a shorter prompt, "
    "or a dtype that this machine is fast in"
)
