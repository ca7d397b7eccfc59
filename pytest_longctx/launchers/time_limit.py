"""A limit on the whole time of a call into a library that limits only each piece of an answer."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(most_s: float, work: Callable[[], T]) -> T:
    """
    Return what *work* returns, or raise what it raises; ConnectionError if it takes more than *most_s*. It is then left alone, in
    a thread that ends no later than this process.
    """
    made: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            made.append(work())
        except BaseException as problem:  # noqa: BLE001 - it is raised below, in the thread that waits
            failed.append(problem)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(most_s)
    if failed:
        raise failed[0]
    if not made:
        raise ConnectionError(f"no whole answer within {most_s:.0f} s")
    return made[0]
