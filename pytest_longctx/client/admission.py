"""
Is a request ever scheduled? A rule on a server's gauges, without a clock of its own, so that hours of them can be replayed.

A long prefill is as silent: no counter moves before its first token, which may take most of an hour at ten million tokens.
But it runs. Forgotten are requests that wait while none runs and nothing else on the page moves.
"""

from dataclasses import dataclass, replace
from typing import Final

from pytest_longctx.client.server_metrics import Reading
from pytest_longctx.units import duration

_HELD: Final = 6
"""
How many times longer it may last where somebody holds a part of the cache.

SGLang counts a request in chunked prefill neither as running nor as waiting. Its tokens in the cache move with every chunk, where
its page has them; the share of it is rounded to hundredths, and of a pool of millions of tokens one hundredth is many chunks.
"""


@dataclass(slots=True)
class Admission:
    """Looks at one reading after the other, and tells when requests have waited unscheduled for longer than *limit_s*."""

    limit_s: float
    waited_s: float | None = None
    """The longest such stretch so far; None: there was none."""
    _since_s: float = 0.0
    _still: Reading | None = None
    """What has not moved since then; None: something runs, or nobody waits."""

    def look(self, now_s: float, seen: Reading) -> str | None:
        """Why the wait is over, or None: it may go on. A page that does not come tells nothing, one way or the other."""
        if not seen.answered:
            return None
        if not seen.unscheduled:
            self._still = None
            return None
        still = replace(seen, waiting=None)  # others may come and give up meanwhile: that is no progress
        if still != self._still:
            self._still, self._since_s = still, now_s
        stretch_s = now_s - self._since_s
        self.waited_s = max(stretch_s, self.waited_s or 0.0)
        if stretch_s <= self.limit_s * (_HELD if seen.kv_usage else 1):
            return None
        usage = f" with {seen.kv_usage:.1%} of the KV cache in use" if seen.kv_usage is not None else ""
        return f"for {duration(stretch_s)} requests waited and none ran{usage}, and no counter moved"
