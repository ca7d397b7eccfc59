"""A limit on requests per time, as in hosted APIs."""

import time
from dataclasses import dataclass, field
from threading import Lock


@dataclass
class RateLimit:
    """At most *requests* in *per_s* seconds. Unused requests accumulate up to *requests*."""

    requests: int
    per_s: float = 60.0
    _left: float = 0.0
    _at_s: float = 0.0
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._left, self._at_s = float(self.requests), time.monotonic()

    def take(self) -> float | None:
        """Take one request from the rate limit. Return None if one was available, else the seconds until one is."""
        with self._lock:
            now_s = time.monotonic()
            self._left = min(self.requests, self._left + (now_s - self._at_s) * self.requests / self.per_s)
            self._at_s = now_s
            if self._left < 1:
                return (1 - self._left) * self.per_s / self.requests
            self._left -= 1
            return None
