"""
The supervisor: a tiny parent that ends a server when its launcher ends.

Run as a script, with nothing but the standard library, so that it starts at once and needs no import path:
``python -I _supervisor.py FD GRACE_S COMMAND...``. It starts COMMAND in a session of its own and ends it, with every process
that descends from it, as soon as the pipe FD reaches its end: when the launcher closes it, and when the launcher dies for
any reason, SIGKILL included, because the kernel closes it then. Its exit code is COMMAND's, or 128 + N for signal N.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.1


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_supervisor() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants(root: int) -> list[int]:
    """Every live process below *root*, by ``/proc``; empty where there is no ``/proc``."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc") if os.path.isdir("/proc") else ()):  # noqa: PTH208, PTH112
        try:
            # Not by pathlib: it takes twice as long, and this is asked every second.
            with open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123
                # The name in brackets may hold spaces and brackets of its own; what follows the last one is plain.
                state, parent = stat.read().rpartition(b")")[2].split()[:2]
        except OSError:  # it ended while we looked
            continue
        if state != b"Z":
            children.setdefault(int(parent), []).append(int(name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _kill(pids: list[int], how: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            pass


class Supervisor:
    """Holds one command and all that comes of it."""

    def __init__(self, pipe: int, grace_s: float, command: list[str]) -> None:
        self.pipe, self.grace_s = pipe, grace_s
        self.status: int | None = None
        self.asked_to_stop = False
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(name, self._stop)
        # Orphans of the command come to us instead of to init, so that none can slip away.
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self.pid = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_supervisor,  # noqa: PLW1509 - the supervisor has one thread
        ).pid

    def _stop(self, *_: object) -> None:
        self.asked_to_stop = True

    def reap(self) -> None:
        """Collect every process that has ended, the command's status among them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code

    def hold(self) -> int:
        """Wait for the command to end or the supervisor to be let go; leave nothing behind; return the exit code."""
        while self.status is None and not self.asked_to_stop:
            ready, _, _ = select.select([self.pipe], [], [], _POLL_S)
            if ready and not os.read(self.pipe, 64):
                break
            self.reap()
        self._end()
        return 128 + signal.SIGTERM if self.status is None else self.status

    def _end(self) -> None:
        if self.status is None:
            try:
                os.killpg(self.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
            self._wait(self.grace_s)
        _kill(descendants(os.getpid()), signal.SIGTERM)
        self._wait(min(self.grace_s, 2.0))
        while left := descendants(os.getpid()):
            _kill(left, signal.SIGKILL)
            self._wait(1.0)

    def _wait(self, most_s: float) -> None:
        """Until nothing is left, or *most_s* have passed."""
        end = time.monotonic() + most_s
        self.reap()
        while descendants(os.getpid()) and time.monotonic() < end:
            time.sleep(0.05)
            self.reap()


if __name__ == "__main__":
    sys.exit(Supervisor(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]).hold())
