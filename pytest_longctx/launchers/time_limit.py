"""A limit on the total time of a library call, for libraries that limit only each piece of an answer."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(most_s: float, work: Callable[[], T]) -> T:
    """
    Return the result of *work*. Raises ConnectionError if *work* takes more than *most_s* seconds; *work* then
    continues in a thread that ends with this process.
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
        raise ConnectionError(f"no complete answer within {most_s:.0f} s")
    return made[0]
