"""Building something while a server boots. numpy and the tokenizers let other threads run meanwhile."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """``Ahead(build)`` starts *build* in a thread; calling it waits, and gives the result or raises the error."""

    def __init__(self, build: Callable[[], T]) -> None:
        self._future: Future[T] = Future()
        # A daemon: a run that is interrupted does not wait for a prompt that nobody will send.
        Thread(target=self._run, args=(build,), name="longctx-ahead", daemon=True).start()

    def _run(self, build: Callable[[], T]) -> None:
        try:
            self._future.set_result(build())
        except BaseException as problem:  # noqa: BLE001 - it is raised where the result is asked for
            self._future.set_exception(problem)

    def __call__(self) -> T:
        return self._future.result()
