"""
Wait until a server really answers, and explain it when it does not.

Ready means: alive, healthy, its model listed, one token generated. An open port or a green health check alone has been
seen on servers that never answered.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from pytest_longctx.catalogue import Reading
from pytest_longctx.errors import BootError, LaunchError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.knock import Knock
from pytest_longctx.mask import masked
from pytest_longctx.observation import Observation, Outcome
from pytest_longctx.progress import Progress
from pytest_longctx.server import Server
from pytest_longctx.units import duration

_POLL_S = 0.1
_LAST_WORDS_S = 0.5
"""How long a server may go on logging after a line that names a cause."""
_TAIL_LINES = 12
MEMORY_LIMIT = "container-memory-limit"
"""The signature of a container that its memory limit ended, which no line of a log tells."""
NOBODY_S = 5.0
"""How long an address at which nobody listens is tried, where the server is said to run already."""


class Candidate(Protocol):
    """A server that may come up."""

    started_s: float
    log: Path | None
    again: str
    """The command that repeats the boot, secrets masked."""
    secrets: tuple[str, ...]
    ours: bool
    """Whether it was started for this run: only then is its failure to come up evidence about it."""
    oom_killed: bool | None = None
    """Once it has ended: whether whoever ran it saw its memory limit end it; None where nobody looks."""

    def exit_code(self) -> int | None:
        """None while it runs."""

    def new_lines(self) -> Iterator[str]:
        """What its log has gained since the last call."""


def await_ready(candidate: Candidate, launch: Launch, hoped: Server, *, boot_s: float) -> Server:
    """*hoped* once it has generated a token, with what it told of itself. Raises `BootError` with what was seen instead."""
    with Knock(hoped) as knock:
        return _Wait(candidate, launch, knock, boot_s).until_ready()


@dataclass(slots=True)
class _Wait:
    """One wait for one candidate."""

    candidate: Candidate
    launch: Launch
    knock: Knock
    boot_s: float
    reading: Reading = field(init=False)
    elapsed_s: float = 0.0

    def __post_init__(self) -> None:
        self.reading = Reading(self.launch.backend.catalogue)

    def until_ready(self) -> Server:
        cause_seen_s: float | None = None
        while True:
            exit_code = self.candidate.exit_code()  # before the log is read, so that nothing it wrote last is missed
            for line in self.candidate.new_lines():
                self.reading.feed(line)
            self.elapsed_s = time.monotonic() - self.candidate.started_s
            if self.knock.answered is not None:
                return self._answered(self.knock.answered)
            if self.reading.cause is not None and cause_seen_s is None:
                cause_seen_s = self.elapsed_s
            said_its_last = cause_seen_s is not None and self.elapsed_s - cause_seen_s > _LAST_WORDS_S
            nobody = not self.candidate.ours and not self.knock.connected and self.elapsed_s > NOBODY_S
            if exit_code is not None or said_its_last or self.knock.refused or nobody or self.elapsed_s > self.boot_s:
                raise self._failed(exit_code)
            phase = self.knock.step if self.reading.phase == "serving" else self.reading.phase
            self.launch.watch(Progress(f"boot {self.launch.deployment.name}", phase, self.elapsed_s, self.boot_s))
            time.sleep(_POLL_S)

    def _answered(self, answered: Server) -> Server:
        """The server with all that is known of it. Raises `BootError` where it cannot hold one request of its own length."""
        figures = {**self.reading.figures, **self.knock.figures, "boot_s": self.elapsed_s}
        words = {**self.reading.words, **self.knock.words}
        server = replace(answered, figures=figures, words=words, log=self.candidate.log)
        concurrency = figures.get("concurrency")
        if concurrency is None or concurrency >= 1 or not server.deployment.needs_full_context:
            return server
        # Such a request is accepted, never scheduled, and blocks all that come after it (vLLM issue 39734).
        said = f"its KV cache holds {concurrency:.2f} requests of {server.max_model_len or 0:,} tokens"
        remedy = (
            "a smaller max_model_len or a larger KV cache; needs_full_context = false where this is what you document"
        )
        raise BootError(
            self._explain(said, remedy), Observation("overcommits", figures, "kv_cache", said=said), server.log
        )

    def _failed(self, exit_code: int | None) -> BootError:
        failure, figures = self.reading.failure, {**self.reading.figures, "boot_s": None}
        if self.candidate.oom_killed and self.reading.cause is None:
            said = how_it_ended(exit_code or 0, oom_killed=True)
            seen = Observation("runs out of memory", figures, self.reading.phase, MEMORY_LIMIT, said)
            return BootError(
                self._explain(said, "a larger [docker] memory_gib, or a smaller server"), seen, self.candidate.log
            )
        if failure is not None:
            known = failure.signature
            text = self._explain(f"the log says {known.id!r} in phase {known.phase!r}", known.remedy)
            said = masked(failure.line, self.candidate.secrets)
            return BootError(
                text,
                Observation(known.outcome, figures | failure.metrics, known.phase, known.id, said),
                self.candidate.log,
            )
        outcome: Outcome = "dies" if exit_code is not None else "refuses" if self.knock.refused else "hangs"
        because = masked(self._how_it_ended(exit_code), self.candidate.secrets)
        if not self.candidate.ours and not self.knock.refused:
            raise LaunchError(
                self._explain(because, "the address, and whether an OpenAI-compatible server answers there")
            )
        text = self._explain(because, "the log, or a longer timeouts.boot_s in the deployment if it was still at work")
        return BootError(text, Observation(outcome, figures, self.reading.phase, said=because), self.candidate.log)

    def _how_it_ended(self, exit_code: int | None) -> str:
        if exit_code is None and self.knock.refused:
            return f"it came up but would not generate one token: {self.knock.refused}"
        if exit_code is None:
            return f"the time was up while waiting for {self.knock.step} ({self.knock.last or 'no answer'})"
        return how_it_ended(exit_code, oom_killed=self.candidate.oom_killed)

    def _explain(self, because: str, remedy: str) -> str:
        candidate = self.candidate
        rows = [
            f"{self.launch.deployment.name} did not become ready",
            f"  after    {duration(self.elapsed_s)} of {duration(self.boot_s)}",
            f"  because  {because}",
        ]
        if candidate.log is not None:
            rows += [f"  log      {candidate.log}, its last lines:"]
            rows += [f"             {line}" for line in tail(candidate.log, candidate.secrets)]
        return "\n".join([*rows, f"  try      {remedy}", f"  again    {candidate.again}"])


def how_it_ended(exit_code: int, *, oom_killed: bool | None) -> str:
    """
    An exit code and what is known of the memory, in words.

    >>> how_it_ended(137, oom_killed=False)
    'the process was ended by signal 9, and not for its memory'
    """
    if oom_killed:
        return f"its container reached its memory limit, and the kernel ended it (OOMKilled, exit code {exit_code})"
    if exit_code > 128:
        looked = (
            ", as the kernel does when the host runs out of memory"
            if oom_killed is None
            else ", and not for its memory"
        )
        return f"the process was ended by signal {exit_code - 128}{looked if exit_code == 137 else ''}"
    return f"the process exited with code {exit_code}"


def tail(log: Path, secrets: tuple[str, ...] = (), lines: int = _TAIL_LINES) -> list[str]:
    """The last *lines* of *log*, masked and cut to a readable width; reads no more than the end of the file."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        text = file.read().decode("utf-8", "replace")
    return [masked(line, secrets)[:240] for line in text.splitlines() if line.strip()][-lines:]
