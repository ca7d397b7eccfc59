"""
An event loop that knows when it woke.

Of the chunks that come to fifty streams at the same moment, the last is read milliseconds after the first. What is read in
one turn of the loop had come before the turn began, so the beginning of the turn is the truer stamp for all of it.
"""

import asyncio
import gc
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Stamps its own returns."""

    clock: Callable[[], float]
    woke_s: float

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        self.woke_s = self.clock()
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Callable[[], float]) -> None:
        self.waits = _Selector()
        self.waits.clock, self.waits.woke_s = clock, clock()
        super().__init__(self.waits)


def woke_s() -> float | None:
    """When the running loop last woke; None on a loop that is not one of `run`."""
    loop = asyncio.get_running_loop()
    return loop.waits.woke_s if isinstance(loop, _Loop) else None


def run(main: Coroutine[Any, Any, T], clock: Callable[[], float] = time.monotonic) -> T:
    """As `asyncio.run`, on a loop that stamps its turns by *clock*, and with short pauses for collecting garbage."""
    # What is there already, which in a test run is a great deal, is not looked through again while answers come in.
    gc.collect(1)  # or what the request before left behind would be kept among the old for long
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
            return runner.run(main)
    finally:
        gc.unfreeze()
