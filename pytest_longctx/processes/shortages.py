"""Recognise errors that this process causes itself because it has no memory, file descriptors or threads left."""

import errno
from typing import Final

from pytest_longctx.errors import LaunchError

_OWN: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""Errors of the operating system that mean: this process or machine has run out of a resource."""


def own_trouble(problem: BaseException | None) -> str:
    """
    Return which resource this process has run out of, if that caused *problem* (memory, file descriptors or threads);
    else empty.
    """
    seen: set[int] = set()
    while problem is not None and id(problem) not in seen:
        seen.add(id(problem))
        if isinstance(problem, MemoryError):
            return "this process has no memory left"
        if isinstance(problem, OSError) and problem.errno in _OWN:
            return f"this process cannot open a connection: {problem.strerror}"
        if isinstance(problem, RuntimeError) and "start new thread" in str(problem):
            return "this process can start no thread"
        problem = problem.__cause__ or problem.__context__
    return ""


def own_error(problem: BaseException, where: str) -> LaunchError | None:
    """
    Return the package's error for a shortage in this process at *where*, an address; None if *problem* has another
    cause.
    """
    why = own_trouble(problem)
    remedy = (
        "more descriptors (ulimit -n), memory or threads for this process, or fewer requests at once (ask.concurrency)"
    )
    return LaunchError(f"{where} could not be asked: {why}\n  try      {remedy}") if why else None
