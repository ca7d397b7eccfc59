"""How a process ended, by its supervisor, and by lines of the kernel, systemd, a container or Kubernetes in a log."""

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pytest_longctx.diagnosis.parsing import quoting
from pytest_longctx.diagnosis.parsing.records import ERROR, Record

_KILLED_PROCESS = re.compile(
    r"(?:Out of memory|Memory cgroup out of memory|oom-kill:.{0,1000}|OOM): ?Kill(?:ed)? process (?P<pid>\d+)"
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
    re.compile(  # systemctl status
        r"^\s*Main PID: \d+ (?:\(\S+\) )?\(code=(?:(?:killed|dumped), signal=(?P<name>[A-Z]+)|exited, status=(?P<code>[1-9]\d*))"
    ),
    re.compile(r"^\s*(?:Exit Code|exitCode|ExitCode)[\"']?:\s+(?P<code>\d+)"),
    re.compile(  # supervisord
        r"^(?:INFO )?exited: \S+ "
        r"\((?:exit status (?P<code>[1-9]\d*)|terminated by (?P<name>SIG[A-Z]+)(?: \(core dumped\))?); not expected"
    ),
    re.compile(r"exited with (?:exit )?code (?P<code>\d+)\s*$"),
)
_STOPPED_BY = re.compile(
    r"failed (?:liveness|startup) probe, will be restarted|\bKilling\b.*(?:Stopping container|probe)"
    r"|\bPreempt(?:ed|ing|ion)\b.*\b(?:[Pp]od|job|JOB)|\bEvicted\b"
    r"|DUE TO (?:TIME LIMIT|PREEMPTION)|State 'stop-sigterm' timed out|CANCELLED AT"
)
_PROBE = re.compile(r"(?:Startup|Liveness) probe failed")
"""A probe that failed; only a kill or a restart ends the process, and most servers fail it while they load."""
_READY = re.compile(r"^\s*Ready:\s+True\s*$")
_AGAIN = re.compile(r"^(?:INFO )?success: \S+ entered RUNNING state")
"""Messages of supervisord about a process that it started again."""
_ENGINES: Final = (("engine",), ("uvicorn",), ("llama",), ("tensorrt",), ("rust",), ("json",))
"""Loggers of engines: below ERROR they log what they do, and what a model wrote."""
_STORAGE = re.compile(r"low on resource: (?!memory|pids)\w|\b(?:EmptyDir volume|ephemeral)\b.*\b(?:exceed|limit)")
"""Reasons for the eviction of a Pod that are about a disk. Such a reason is a cause, and not only a stop from outside."""
_LIMIT = 8


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """A process of the server that a signal ended."""

    pid: int
    name: str
    number: int
    """The signal."""

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name}) was ended by {signal_name(self.number)}"


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
    probes: list[str] = field(default_factory=list)
    """Lines about failed probes; no evidence without a stop or an end."""
    ready: bool = False
    """Whether Kubernetes says that the container is ready."""

    def take(self, record: Record) -> bool:
        """Read one log line, and return whether it is evidence of how a process ended."""
        text = record.text
        wrote = record.joined or (record.kinds[-1:] in _ENGINES and (record.level or 0) < ERROR)
        if wrote or not _MAY_BE.search(text) or _STORAGE.search(text):
            return False
        if found := _said(_KILLED_PROCESS, text):
            self._keep(self.memory, text)
            if found["rss_kb"]:
                self.killed_gib = max(self.killed_gib or 0.0, int(found["rss_kb"]) / 1024**2)
            return True
        if any(_said(each, text) for each in _MEMORY):
            self._keep(self.memory, text)
            return True
        if _said(_NOT_MEMORY, text):
            self.denied = True
            return True
        return self._exit(text) or self._stop(text)

    def _exit(self, text: str) -> bool:
        """Read a log line as evidence of an exit code, and return whether it is."""
        if _AGAIN.match(text):
            self.exit_code = None
            return True
        found = next(filter(None, (_said(each, text) for each in _EXIT)), None)
        if found is not None:
            self.exit_code = _exit_code(found.groupdict())
        return found is not None

    def _stop(self, text: str) -> bool:
        """Read a log line as evidence of a stop from outside or of the container's state, and return whether it is."""
        if _READY.match(text):
            self.ready = True
            return True
        for pattern, lines in ((_STOPPED_BY, self.stopped_by), (_PROBE, self.probes)):
            if _said(pattern, text):
                self._keep(lines, text)
                return True
        return False

    def stops(self, *, killed: bool, serves: bool) -> list[str]:
        """
        Return log lines that are evidence of a stop from outside, for a process that was *killed*, or that was ready
        and *serves*.
        """
        if serves and not killed:  # another container of the pod may be stopped, or the one before it
            return [] if self.ready else [line for line in self.stopped_by if "Stopping container" not in line]
        return [*self.stopped_by, *self.probes][:_LIMIT] if self.stopped_by or (killed and not serves) else []

    @staticmethod
    def _keep(lines: list[str], text: str) -> None:
        if len(lines) < _LIMIT:
            lines.append(text.strip())


def _exit_code(parts: Mapping[str, str | None]) -> int:
    """Return the exit code in a log line of evidence; negative for a signal."""
    if name := parts.get("name"):
        name = f"SIG{name.removeprefix('SIG')}"
        return -signal.Signals[name].value if name in signal.Signals.__members__ else 1
    number = parts.get("signal")
    return -int(number) if number else int(parts["code"] or 0)


def _said(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Return the match of an evidence *pattern* in the log line *text*, outside quotations; None without a match."""
    found = pattern.search(text)
    return found if found is not None and quoting.reports(text, found.start(), found.end()) else None


_BANNERS: Final[Mapping[str, signal.Signals]] = {
    "Bus error": signal.SIGBUS,
    "Aborted": signal.SIGABRT,
    "Killed": signal.SIGKILL,
    "Trace/breakpoint trap": signal.SIGTRAP,
    "Floating point exception": signal.SIGFPE,
    "SIGBUS": signal.SIGBUS,
    "SIGABRT": signal.SIGABRT,
}
"""The words that a shell or a signal handler prints for a signal. None of them says why the signal was sent."""


def signal_of_banner(line: str) -> str:
    """Return the signal that a shell's message names, as an exit code; empty if *line* names no signal."""
    return next((str(-number) for words, number in _BANNERS.items() if words in line), "")


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGKILL; its number if the signal has no name."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def silent(*, told: bool) -> str:
    """Return the evidence that a child ended without an earlier error. *told*: the log contains the beginning of the boot."""
    if told:
        return "unknown: a child process ended without a word of its own, no cause in the log"
    return "unknown: the log has only the end of the failure; its first error stands in the lines before"


def what_would_tell(number: int | None) -> str:
    """Return further evidence, outside the log, that would show why signal *number* ended the process."""
    if number == signal.SIGKILL or number is None:
        sources = "dmesg -T | grep -i oom, docker inspect (OOMKilled), the cgroup's memory.events or kubectl describe"
        return f"{sources} would show whether memory was the reason"
    return "the core dump, or what the process wrote to its standard error, would show more"


_WORDS: Final = (
    "Killed process",
    "oom",
    "OOM",
    "process exited",
    "(code=",
    "xit Code",
    "xitCode",
    "exited with",
    "probe",
    "Killing",
    "Ready:",
    "exited: ",
    "entered RUNNING",
    "reempt",
    "Evicted",
    "memory pressure",
    "low on ",
    "DUE TO",
    "CANCELLED",
    "stop-sigterm",
)
"""Every line of evidence has one of these texts."""
_MAY_BE = re.compile("|".join(map(re.escape, _WORDS)))
