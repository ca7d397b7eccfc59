"""Lines of the kernel, systemd, a container or Kubernetes in a log that tell how a process ended."""

import re
from dataclasses import dataclass, field
from typing import Final

from pytest_longctx.diagnosis.records import Record

_KILLED_PROCESS = re.compile(
    r"(?:Out of memory|Memory cgroup out of memory|oom-kill:.*|OOM): ?Kill(?:ed)? process (?P<pid>\d+)"
    r" ?(?:\((?P<name>[^)]*)\))?(?:.*?anon-rss:(?P<rss_kb>\d+)kB)?"
)
_MEMORY: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"invoked oom-killer",
        r"^oom_kill [1-9]\d*\s*$",
        r"""\bOOMKilled["']?\s?[:=]\s?["']?[Tt]rue""",
        r"^\s*(?:Reason|reason)[\"']?:\s+[\"']?OOMKilled",
        r"^\S+\s+\d+/\d+\s+OOMKilled\b|\bOOMKilling\b",
        r"Failed with result 'oom-kill'|killed by the OOM killer",
        r"[Dd]etected \d+ oom[-_]kill event|killed by the cgroup out-of-memory handler",
        r"The node was low on resource: memory|Container \S+ was using .* which exceeds its request",
        r"^ray\.exceptions\.OutOfMemoryError|killed due to memory pressure|due to the node running low on memory",
    )
)
_NOT_MEMORY = re.compile(r"""\bOOMKilled["']?\s?[:=]\s?["']?[Ff]alse""")
_EXIT: Final = (
    re.compile(r"Main process exited, code=(?:killed|dumped), status=(?P<signal>\d+)"),
    re.compile(r"Main process exited, code=exited, status=(?P<code>\d+)"),
    re.compile(r"^\s*(?:Exit Code|exitCode|ExitCode)[\"']?:\s+(?P<code>\d+)"),
    re.compile(r"exited with (?:exit )?code (?P<code>\d+)\s*$"),
)
_STOPPED_BY = re.compile(
    r"failed (?:liveness|startup) probe, will be restarted|^.*\bKilling\b.*(?:Stopping container|probe)"
    r"|(?:Startup|Liveness) probe failed|\bPreempt(?:ed|ing|ion)\b.*\b(?:[Pp]od|job|JOB)|\bEvicted\b"
    r"|DUE TO (?:TIME LIMIT|PREEMPTION)|State 'stop-sigterm' timed out|CANCELLED AT"
)
_LIMIT = 8


@dataclass(slots=True)
class LogEvidence:
    """Evidence of how a process ended."""

    memory: list[str] = field(default_factory=list)
    killed_gib: float | None = None
    denied: bool = False
    """Whether a container's state says OOMKilled=false."""
    exit_code: int | None = None
    stopped_by: list[str] = field(default_factory=list)
    """Lines about a stop from outside."""

    def take(self, record: Record) -> bool:
        """Read one line. Returns whether it is evidence."""
        text = record.text
        if found := _KILLED_PROCESS.search(text):
            self._keep(self.memory, text)
            if found["rss_kb"]:
                self.killed_gib = max(self.killed_gib or 0.0, int(found["rss_kb"]) / 1024**2)
            return True
        if any(each.search(text) for each in _MEMORY):
            self._keep(self.memory, text)
            return True
        if _NOT_MEMORY.search(text):
            self.denied = True
            return True
        for each in _EXIT:
            if found := each.search(text):
                parts = found.groupdict()
                self.exit_code = -int(parts["signal"]) if parts.get("signal") else int(parts["code"])
                return True
        if _STOPPED_BY.search(text):
            self._keep(self.stopped_by, text)
            return True
        return False

    @staticmethod
    def _keep(lines: list[str], text: str) -> None:
        if len(lines) < _LIMIT:
            lines.append(text.strip())


WORDS: Final = (
    "Killed process",
    "oom",
    "OOM",
    "process exited",
    "xit Code",
    "xitCode",
    "exited with",
    "probe",
    "Killing",
    "reempt",
    "Evicted",
    "memory pressure",
    "low on ",
    "DUE TO",
    "CANCELLED",
    "stop-sigterm",
)
"""Texts of which every such line has one."""
