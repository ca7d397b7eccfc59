"""Evidence of the kernel's out-of-memory killer, as far as it is readable; None if it is not."""

import os
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pytest_longctx.units import GiB

_COUNTERS = {
    "/proc/vmstat": "this host",
    "/sys/fs/cgroup/memory.events": "this control group",
}
"""Files with a line ``oom_kill N``, and the processes that they count."""
_KMSG = Path("/dev/kmsg")
_RECORD_BYTES = 8192
_KERNELS_PIDS = 0xEFFFFFFC
"""Inode of the first PID namespace (``PROC_PID_INIT_INO`` of Linux): the kernel's log names processes by their ids in it."""
_VICTIM = re.compile(
    r"(?:Out of memory|Memory cgroup out of memory): Killed process (\d+) \((.*?)\)(?:.*?anon-rss:(\d+)kB)?"
)


@dataclass(frozen=True, slots=True)
class MemoryKills:
    """Out-of-memory kills within an interval."""

    lines: tuple[str, ...] = ()
    """Evidence, one line each; empty: searched, and none found."""
    killed_gib: float | None = None
    """Memory of the largest killed process."""


class MemoryWatch:
    """Watch of the kernel's counters, which reports the kills since its creation."""

    def __init__(self) -> None:
        self._since_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        self._before = {name: count for name in _COUNTERS if (count := counted(Path(name))) is not None}

    def kills(self, killed: Collection[int] = ()) -> MemoryKills | None:
        """
        Return the OOM killer's kills since creation; None if neither a counter nor the kernel's log is readable.

        *killed*: the ids of the server's processes that SIGKILL is known to have ended. A victim that is none of them is of
        another program, and is not counted. Without any, or in a container, each victim counts.
        """
        said = kernel_log(self._since_s)
        if not self._before and said is None:
            return None
        lines, held, foreign = [], [], 0
        told_apart = killed and _sees_the_kernels_ids()
        for text in said or ():
            if not (victim := _VICTIM.search(text)):
                continue
            if told_apart and int(victim[1]) not in killed:
                foreign += 1
            else:
                lines.append(f"kernel log: {text}")
                held += [int(victim[3]) * 1024 / GiB] if victim[3] else []
        for name, before in self._before.items():
            more = (counted(Path(name)) or before) - before - foreign
            if more > 0:
                lines.append(f"{name}: {more} more out-of-memory kills on {_COUNTERS[name]} since the start")
        return MemoryKills(tuple(lines), max(held, default=None))


def _sees_the_kernels_ids() -> bool:
    """Return whether this process sees the ids of processes that the kernel's log names; a container's are others."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == _KERNELS_PIDS
    except OSError:
        return False


def counted(path: Path) -> int | None:
    """Return the ``oom_kill`` counter of out-of-memory kills in the file *path*; None if it is unreadable."""
    try:
        found = re.search(r"^oom_kill (\d+)$", path.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def kills_in_group_of(pid: int, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """
    Return the number of kills by the kernel's OOM killer in the control group of *pid* (cgroup v1 or v2); None if
    unreadable.
    """
    try:
        rows = (proc / str(pid) / "cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for _, controllers, group in (row.split(":", 2) for row in rows):
        if controllers == "memory":
            return counted(groups / "memory" / group.lstrip("/") / "memory.oom_control")
        if not controllers and (count := counted(groups / group.lstrip("/") / "memory.events")) is not None:
            return count
    return None


def kernel_log(since_s: float, path: Path = _KMSG) -> list[str] | None:
    """
    Return the kernel's log messages since *since_s* on the monotonic clock, where the OOM killer reports; None if
    unreadable.
    """
    try:
        source = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    texts = []
    try:
        while record := _record(source):
            head, _, text = record.partition(";")
            fields = head.split(",")
            if len(fields) > 2 and fields[2].isdigit() and int(fields[2]) / 1e6 >= since_s:
                texts.append(text.split("\n", 1)[0])
    finally:
        os.close(source)
    return texts


def _record(source: int) -> str:
    """Return the next record of the kernel's log, where the OOM killer reports; empty at the log's end."""
    while True:
        try:
            return os.read(source, _RECORD_BYTES).decode("utf-8", "replace")
        except BrokenPipeError:  # records were overwritten before they could be read; go on with what is left
            continue
        except OSError:
            return ""
