"""
An asyncio event loop that records when it last woke.

If fifty streams receive a chunk at the same moment, the last one is read milliseconds after the first. All data that
one iteration of the loop reads arrived before the iteration began. So the start of the iteration is the more accurate
time stamp.
"""

import asyncio
import gc
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """A selector that records when each call to `select` returned."""

    clock: Callable[[], float]
    woke_s: float

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        self.woke_s = self.clock()
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Callable[[], float]) -> None:
        self._closed = True  # until it is made, there is nothing to close
        self.waits = _Selector()
        self.waits.clock, self.waits.woke_s = clock, clock()
        try:
            super().__init__(self.waits)
        except OSError:  # no descriptor is left; asyncio would try to close what it has not opened
            self.waits.close()
            self._closed = True
            raise


def woke_s() -> float | None:
    """Return the time at which the running event loop last woke; None if the loop was not started by `run`."""
    loop = asyncio.get_running_loop()
    return loop.waits.woke_s if isinstance(loop, _Loop) else None


def run(main: Coroutine[Any, Any, T], clock: Callable[[], float] = time.monotonic) -> T:
    """
    Run *main* as `asyncio.run` does, and return its result. *clock* stamps each iteration; garbage-collection pauses
    are short.
    """
    # Exclude existing objects (many in a test run) from garbage collection while answers arrive.
    gc.collect(1)  # collect first, or freezing would keep the garbage of the request before
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
            return runner.run(main)
    finally:
        main.close()  # it has not begun if there is no loop
        gc.unfreeze()
