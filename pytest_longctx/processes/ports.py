"""Reserve the port of a server that is about to start."""

import random
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from pytest_longctx.errors import LaunchError

_HOST: Final = "127.0.0.1"
_LOWEST: Final = 20_000
"""Ports below are left to services with a number of their own."""
_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ATTEMPTS: Final = 64


@contextmanager
def reserved_port(wanted: object) -> Iterator[int]:
    """
    Reserve the port *wanted*, or a free one if it is None, and yield it. Other runs on this machine do not choose a
    reserved port.

    An engine binds its port only seconds after its start. A port that the kernel chose could be given to another
    program's connection by then, so this chooses from outside of the kernel's range. Raises `LaunchError`.
    """
    if wanted is not None and not (type(wanted) is int and 0 < wanted < 65536):
        raise LaunchError(f"[flags] port: {wanted!r} must be a port from 1 to 65535; omit it to use a free port")
    with _chosen() if wanted is None else _exactly(wanted) as port:
        yield port


def free_ports(count: int) -> list[int]:
    """Return *count* different free ports, for a server of several processes. They stay reserved only during this call."""
    with ExitStack() as held:
        return [held.enter_context(reserved_port(None)) for _ in range(count)]


@contextmanager
def _exactly(port: int) -> Iterator[int]:
    hold = _hold(port)
    if hold is None:
        raise _taken(port, "another run has reserved it")
    with hold:
        try:
            _bind(port)
        except OSError as problem:
            raise _taken(port, str(problem.strerror)) from None
        yield port


def _taken(port: int, because: str) -> LaunchError:
    return LaunchError(
        f"port {port} on {_HOST} is taken ({because})\n"
        "  try      another port in the deployment's [flags], or omit it to use a free port"
    )


@contextmanager
def _chosen() -> Iterator[int]:
    outside = _outside(_ephemeral())
    for _ in range(_ATTEMPTS):
        # Not the seeded generator of the prompts: two runs with one seed must not choose the same ports.
        port = random.SystemRandom().choice(outside) if outside else _bind(0)
        hold = _hold(port)
        if hold is None:
            continue
        with hold:
            try:
                _bind(port)
            except OSError:
                continue
            yield port
            return
    raise LaunchError(
        f"no free port on {_HOST} was found in {_ATTEMPTS} attempts\n"
        "  try      end programs that listen on this machine, or set a port in the deployment's [flags]"
    )


def _bind(port: int) -> int:
    """Return *port* if a server could bind it now, or a port that the kernel chooses for 0. Raises `OSError`."""
    with socket.socket() as probe:
        # As in servers, a port in TIME_WAIT from an earlier connection counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((_HOST, port))
        return int(probe.getsockname()[1])


def _hold(port: int) -> socket.socket | None:
    """
    Return a socket that marks *port* as reserved while it is open; None if another run has reserved the port.

    The mark is a name in Linux's abstract namespace. It belongs to the same network namespace as the port, and the kernel
    removes it when the run ends. Other systems have no such names; there only the choice at random keeps runs apart.
    """
    mark = socket.socket(socket.AF_UNIX)
    if sys.platform == "linux":
        try:
            mark.bind(f"\0pytest-longctx-port-{port}")
        except OSError:
            mark.close()
            return None
    return mark


def _ephemeral() -> range:
    """Return the ports that the kernel gives to connections; IANA's range (RFC 6335) where Linux's cannot be read."""
    with suppress(OSError, ValueError):
        low, high = _EPHEMERAL.read_text(encoding="ascii").split()
        return range(int(low), int(high) + 1)
    return range(49152, 65536)


def _outside(ephemeral: range) -> range:
    """Return the larger range of ports beside *ephemeral*; an empty one if that takes nearly all."""
    below, above = range(_LOWEST, max(_LOWEST, ephemeral.start)), range(max(_LOWEST, ephemeral.stop), 65536)
    return max(below, above, key=len)
