"""
Supervisor: a small parent process that ends a server when its launcher ends.

It runs as a script with the standard library only, so it starts at once and needs no import path: ``python -I
_supervisor.py FD NOTES KEPT GRACE_S COMMAND...``. It starts COMMAND in a new session. As soon as the pipe FD reaches its
end, it ends COMMAND with all descendants. The kernel closes the pipe when the launcher closes it or ends for any
reason, SIGKILL included. The exit code is the exit code of COMMAND, or 128 + N for signal N.

It writes a line ``PID SIGNAL NAME`` to the pipe NOTES for each descendant that a signal has ended, until it ends them
itself. Engines often do not log how their workers ended.

It writes a line ``PID START`` to the file KEPT for each descendant, with its start in ticks of the kernel. If the
supervisor is killed, this is how the remaining processes are found: those that set their title, as vLLM's do, overwrite
their environment. -1 is no file.
"""

import ctypes
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.1
_LOOK_S = 1.0
"""Interval between looks for new descendants."""
_MOST_FOLLOWED = 500
"""Descendants whose end is followed. Each takes a descriptor."""
_STARTED = 19
"""Field of ``/proc/PID/stat`` after the name: the start, which tells a process from a later one with the same id."""
_EXIT_STATUS = 49
"""Field of ``/proc/PID/stat`` after the name: the status with which a process ended."""
_GET_INFO = 0xC040FF0B
"""``PIDFD_GET_INFO``. Since Linux 6.15 it tells how a process ended that its parent has collected."""
_INFO_BYTES = 64
_INFO_EXIT = 1 << 3
"""``PIDFD_INFO_EXIT``: the answer has the status, in its last four bytes."""
_ORPHANED_S = 5.0
"""
Seconds for remaining processes after their command has ended. Those that wait for that end, as vLLM's workers do, need
no longer.
"""


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_supervisor() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants(root: int) -> list[int]:
    """Return every live process below *root*, from ``/proc``; empty without ``/proc``."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc") if os.path.isdir("/proc") else ()):  # noqa: PTH208, PTH112
        try:
            # Without pathlib, which takes twice as long; this runs every second.
            with open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123
                # The name in brackets can contain spaces and brackets, so the fields start after the last bracket.
                state, parent = stat.read().rpartition(b")")[2].split()[:2]
        except OSError:  # the process ended meanwhile
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


def _stat(pid: int) -> tuple[str, list[bytes]]:
    """Return the name of process *pid*, and the fields of ``/proc`` after it; empty if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
            head, _, rest = stat.read().rpartition(b")")
    except OSError:
        return "", []
    return "".join(filter(str.isprintable, head.partition(b"(")[2].decode("utf-8", "replace"))), rest.split()


def started(pid: int) -> int | None:
    """Return when process *pid* started, in ticks of the kernel; None if it has ended."""
    _, fields = _stat(pid)
    return int(fields[_STARTED]) if fields and fields[0] != b"Z" else None


def _status(pid: int, descriptor: int) -> int:
    """
    Return how process *pid* ended, as ``wait`` reports it; 0 also if its parent has already collected it on an old
    kernel.
    """
    _, fields = _stat(pid)
    if fields:
        return int(fields[_EXIT_STATUS]) if fields[0] == b"Z" else 0
    answer = bytearray(struct.pack("Q", _INFO_EXIT).ljust(_INFO_BYTES, b"\0"))
    try:
        fcntl.ioctl(descriptor, _GET_INFO, answer)
    except OSError:
        return 0
    mask, status = struct.unpack_from("Q", answer)[0], struct.unpack_from("i", answer, _INFO_BYTES - 4)[0]
    return int(status) if mask & _INFO_EXIT else 0


class Ends:
    """Record of all descendants, kept in a file, and of those that a signal ended."""

    def __init__(self, pipe: int, notes: int, kept: int) -> None:
        self._pipe, self._notes, self._kept = pipe, notes, kept
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN | select.POLLHUP)
        self._followed: dict[int, int] = {}
        """Process ids, by the descriptors that become readable when the processes end."""
        self._names: dict[int, str] = {}
        self._noted: set[int] = set()
        self._listed: set[tuple[int, int]] = set()
        self._looked_s = -_LOOK_S

    def wait(self) -> bool:
        """Wait for a moment, or until a descendant ends. Return whether the pipe has ended."""
        for descriptor, _ in self._poll.poll(_POLL_S * 1000):
            if descriptor == self._pipe:
                if not os.read(self._pipe, 64):
                    return True
                continue
            pid = self._followed.pop(descriptor)
            self.note(pid, _status(pid, descriptor))
            self._poll.unregister(descriptor)
            os.close(descriptor)
        if time.monotonic() - self._looked_s >= _LOOK_S:
            self._looked_s = time.monotonic()
            self._look()
        return False

    def _look(self) -> None:
        """Record new descendants, and read the names of all, because engines rename their processes."""
        for pid in set(descendants(os.getpid())).difference(self._followed.values()):
            self._list(pid)
            if len(self._followed) < _MOST_FOLLOWED:
                try:
                    descriptor = os.pidfd_open(pid)
                except (OSError, AttributeError):  # it has ended, or the kernel has no such descriptors
                    continue
                self._followed[descriptor] = pid
                self._poll.register(descriptor, select.POLLIN)
        self._names = {pid: _stat(pid)[0] for pid in self._followed.values()}

    def _list(self, pid: int) -> None:
        """Add process *pid* to the file, once."""
        start = started(pid)
        if start is None or (pid, start) in self._listed:
            return
        self._listed.add((pid, start))
        try:
            os.write(self._kept, f"{pid} {start}\n".encode())
        except OSError:  # there is no file, or no space
            pass

    def note(self, pid: int, status: int) -> None:
        """Record process *pid* if a signal ended it."""
        number = status & 0x7F
        if not number or pid in self._noted:
            return
        self._noted.add(pid)
        name = _stat(pid)[0] or self._names.get(pid, "")
        try:
            os.write(self._notes, f"{pid} {number} {name}\n".encode())
        except OSError:  # the launcher has gone, or does not read
            pass


class Supervisor:
    """Parent process that runs one command and tracks all its descendants."""

    def __init__(self, ends: Ends, grace_s: float, command: list[str]) -> None:
        self.ends: Ends | None = ends
        """None once the supervisor ends the descendants itself."""
        self.grace_s = grace_s
        self.status: int | None = None
        self.asked_to_stop = False
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(name, self._stop)
        # Orphans of the command are reparented to the supervisor instead of init, so that all can be ended.
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        # Kept: the end of this object would collect the exit code of a command that has ended by then.
        self._command = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_supervisor,  # noqa: PLW1509 - the supervisor has one thread
        )
        self.pid = self._command.pid

    def _stop(self, *_: object) -> None:
        self.asked_to_stop = True

    def reap(self) -> None:
        """Collect every ended process, including the status of the command."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is not None and self.ends is not None:
                    self.ends.note(ended.si_pid, _status(ended.si_pid, -1))
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code

    def hold(self) -> int:
        """Wait until the command ends or the pipe closes, end every remaining process, and return the exit code."""
        while self.ends is not None and self.status is None and not self.asked_to_stop:
            if self.ends.wait():
                break
            self.reap()
        self.ends = None
        self._end()
        return 128 + signal.SIGTERM if self.status is None else self.status

    def _end(self) -> None:
        if self.status is None:
            try:
                os.killpg(self.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
            self._wait(self.grace_s, _ORPHANED_S)
        _kill(descendants(os.getpid()), signal.SIGTERM)
        self._wait(min(self.grace_s, 2.0))
        while left := descendants(os.getpid()):
            _kill(left, signal.SIGKILL)
            self._wait(1.0)

    def _wait(self, most_s: float, orphaned_s: float | None = None) -> None:
        """
        Wait until the supervisor has no process left, for at most *most_s* seconds, and at most *orphaned_s* after the
        command's end.
        """
        end = time.monotonic() + most_s
        self.reap()
        while descendants(os.getpid()) and time.monotonic() < end:
            if orphaned_s is not None and self.status is not None:
                end, orphaned_s = min(end, time.monotonic() + orphaned_s), None
            time.sleep(0.05)
            self.reap()


if __name__ == "__main__":
    sys.exit(Supervisor(Ends(*map(int, sys.argv[1:4])), float(sys.argv[4]), sys.argv[5:]).hold())
