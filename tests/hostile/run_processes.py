"""The processes of one run: those with a mark in their environment, and all descendants of the run, also when they have moved."""

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pytest_longctx.processes import locks

ABOVE: Mapping[str, str] = {"worker": "core", "core": "engine", "engine": "supervisor", "supervisor": "run"}
"""What is signalled instead of a process that does not exist at that moment."""


class Entry(NamedTuple):
    """A process in ``/proc``. *started* tells it from an earlier one with the same id."""

    parent: int
    started: int
    line: bytes
    marked: bool


def table(mark: bytes) -> dict[int, Entry]:
    """Return every process that has not ended; *mark* is a variable of an environment, with its value."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, *fields = (path / "stat").read_bytes().rpartition(b")")[2].split()
            if state != b"Z":
                marked = mark in (path / "environ").read_bytes().split(b"\0")
                line = (path / "cmdline").read_bytes()
                found[int(path.name)] = Entry(int(fields[0]), int(fields[18]), line, marked)
    return found


@dataclass
class RunProcesses:
    """Follow the processes of one run after another."""

    mark: bytes
    names: Mapping[str, bytes]
    """Roles below the engine's first process, and what is on their command lines."""
    run: int = 0
    """The process of pytest."""
    known: set[tuple[int, int]] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)
    """Ports of the engines of this run."""

    def began(self, run: int) -> None:
        """Follow the run whose process is *run*."""
        self.run, self.known, self.ports = run, set(), set()

    def alive(self) -> dict[int, str]:
        """Return every process of the run, with its role."""
        found = table(self.mark)
        ours = {pid for pid, each in found.items() if each.marked or (pid, each.started) in self.known}
        ours |= {self.run} & found.keys()
        while more := {pid for pid, each in found.items() if each.parent in ours} - ours:
            ours |= more
        self.known |= {(pid, found[pid].started) for pid in ours}
        roles = {pid: self._role(pid, found) for pid in sorted(ours)}
        for pid, role in roles.items():
            words = found[pid].line.split(b"\0")
            if role == "engine" and b"--port" in words[:-1]:
                self.ports.add(int(words[words.index(b"--port") + 1]))
        return roles

    def _role(self, pid: int, found: Mapping[int, Entry]) -> str:
        if pid == self.run:
            return "run"
        parent, _, line, _ = found[pid]
        if b"_supervisor.py" in line:
            return "supervisor" if parent == self.run else "other"
        named = next((role for role, name in self.names.items() if name in line), None)
        above = found[parent].line if parent in found else b""
        return named or ("engine" if b"_supervisor.py" in above else "other")

    def signal(self, targets: Sequence[str], how: signal.Signals) -> tuple[str, ...]:
        """Send *how* to the *targets*, or to what is above them; return what got it."""
        there = {role: pid for pid, role in self.alive().items()}
        hit = []
        for wanted in targets:
            target = wanted
            while target not in there and target in ABOVE:
                target = ABOVE[target]
            if target in there and target not in hit:
                with suppress(ProcessLookupError):
                    os.kill(there[target], how)
                    hit.append(target)
        return tuple(hit)

    def described(self) -> list[str]:
        """Describe the processes that are alive."""
        return [f"{role}: {locks.described(pid)}" for pid, role in self.alive().items()]
