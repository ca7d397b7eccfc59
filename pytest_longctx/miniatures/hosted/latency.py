"""Delays of a miniature, which has none by default."""

from dataclasses import dataclass, field
from random import Random
from threading import Event, Lock


@dataclass
class Latency:
    """
    Delays before the first token and between tokens.

    *spec* is ``none``, ``fixed:S``, ``uniform:LOW,HIGH`` or ``lognormal:MEDIAN,SIGMA``, in seconds: the delay of a request
    besides the time for its tokens. Raises ValueError for any other text.
    """

    spec: str = "none"
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    seed: int = 0
    stopped: Event = field(default_factory=Event)
    """Set when the server stops. Every wait then ends at once."""
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        name, _, numbers = self.spec.partition(":")
        values = [float(number) for number in numbers.split(",")] if numbers else []
        if {"none": 0, "fixed": 1, "uniform": 2, "lognormal": 2}.get(name) != len(values):
            raise ValueError(
                f"latency {self.spec!r}: allowed are none, fixed:S, uniform:LOW,HIGH and lognormal:MEDIAN,SIGMA"
            )
        self._name, self._values, self._rng = name, values, Random(self.seed)

    def draw_s(self) -> float:
        """Return a random delay in seconds for one request to a miniature."""
        with self._lock:
            match self._name, self._values:
                case "fixed", [delay_s]:
                    return delay_s
                case "uniform", [low_s, high_s]:
                    return self._rng.uniform(low_s, high_s)
                case "lognormal", [median_s, sigma]:
                    return median_s * self._rng.lognormvariate(0, sigma)
                case _:
                    return 0.0

    def before_first_token(self, tokens: int) -> None:
        """Wait for the first-token delay of a prompt of *tokens* uncached tokens."""
        self._wait(self.draw_s() + (tokens / self.prefill_tokens_per_s if self.prefill_tokens_per_s else 0.0))

    def after_tokens(self, tokens: int) -> None:
        """Wait for the delay of *tokens* answer tokens."""
        self._wait(tokens / self.decode_tokens_per_s if self.decode_tokens_per_s else 0.0)

    def _wait(self, delay_s: float) -> None:
        if delay_s > 0:
            self.stopped.wait(delay_s)
