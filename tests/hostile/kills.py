"""
Signals at random moments to whole runs, one run after another in one folder: to pytest, the supervisor, the engine's processes.

A run goes through phases: the start of pytest, the boot of the engine, a long prefill, the answer, the teardown. They are observed.
A moment is a phase and a share of its time. Moment, target and signal of the Nth kill come from the seed and N.
"""

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pytest_longctx.errors import ResultsError
from pytest_longctx.processes.progress import wait_until
from pytest_longctx.reports import results
from tests.hostile.run_processes import RunProcesses
from tests.hostile.servers import elapsed

ORPHANS_S = 20.0
"""Seconds within which no process may be left: after a kill of the run, or after the end of a run that was not killed."""
MARK = "LONGCTX_KILLS_MARK"
"""Variable in the environment of every process of a run, because engines rename their workers."""
LOOK_S = 0.05
TEST = """
from pathlib import Path

import pytest

from pytest_longctx.client import request

@pytest.mark.finding("LC-0001")
def test_judged(finding, server, ask, prompt, judge):
    assert judge(ask(prompt(1000), 32))

def test_long(server, ask, prompt, monkeypatch):
    def seen(sent):
        reached = phase(sent)
        if reached == "answering":
            Path("decode").touch()
        return reached

    phase = request.StreamedRequest._phase
    monkeypatch.setattr(request.StreamedRequest, "_phase", seen)
    Path("prefill").touch()
    ask(prompt({prompt_tokens}), {answer_tokens})
    Path("teardown").touch()
"""
FILES = ("teardown", "decode", "prefill")
"""What the test makes when it comes to a phase, the last first."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A kill to be made."""

    phase: str
    share: float
    """Share of the phase's usual time."""
    targets: tuple[str, ...]
    how: signal.Signals


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, and what became of it."""

    drawn: str
    """The phase that was wanted."""
    phase: str
    """The phase that was observed when the signal was sent."""
    delay_s: float
    targets: tuple[str, ...]
    """What got the signal; none if the run had ended by then."""
    how: str
    exit_code: int | None
    """Exit code of pytest, negative for a signal; None if it did not end by itself."""
    ended_s: float
    """Seconds from the signal to the end of pytest."""
    gone_s: float
    """Seconds from the signal until no process of the run was left, or until the next run ended the rest."""
    swept: int
    """Processes that the next run had to end, because the run and its supervisor were killed together."""
    verdicts: int
    """Verdicts that the results file had."""
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs, and what is drawn."""

    backend: str
    deployment: str
    """The deployment as TOML, with a table ``[env]``, which gets the mark."""
    prompt_tokens: int
    answer_tokens: int
    phases: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]
    """What gets a signal at once. Each has its turn in each phase, in an order that comes from the seed."""
    names: Mapping[str, bytes]
    """See `RunProcesses`."""
    patience_s: float
    """Most seconds that a run may take."""
    signals: Mapping[signal.Signals, float] = field(default_factory=lambda: {signal.SIGKILL: 1.0})
    """Their weights. Several targets at once get SIGKILL."""
    swept_after_s: float = 0.0
    """How long workers may end by themselves after a kill of run and supervisor, before the next run ends them."""

    def draw(self, seed: int, index: int) -> Draw:
        """Return the kill number *index*: the phases in turn, and in each phase all targets before one comes again."""
        turn, place = divmod(index, len(self.phases))
        around, card = divmod(turn, len(self.targets))
        phase, rng = self.phases[place], random.Random(f"{seed}-{index}")
        deck = random.Random(f"{seed}-{phase}-{around}").sample(self.targets, len(self.targets))
        (how,) = rng.choices(list(self.signals), list(self.signals.values()))
        return Draw(phase, rng.random(), deck[card], how if len(deck[card]) == 1 else signal.SIGKILL)


class Killing:
    """Runs in *folder* that get signals, one run after another."""

    def __init__(self, folder: Path, plan: Plan, seed: int) -> None:
        self.folder, self.plan, self.seed = folder, plan, seed
        self.phases_s: dict[str, float] = {}
        """How long each phase took when it was last seen from its beginning to its end."""
        word = f"{os.getpid()}-{seed}-{folder.name}"
        self.processes = RunProcesses(f"{MARK}={word}".encode(), plan.names)
        marked = plan.deployment.replace("[env]\n", f'[env]\n{MARK} = "{word}"\n')
        (folder / "d.toml").write_text(marked, encoding="utf-8")
        text = TEST.format(prompt_tokens=plan.prompt_tokens, answer_tokens=plan.answer_tokens)
        (folder / "test_it.py").write_text(text, encoding="utf-8")
        chosen = (f"--backend={plan.backend}", "--longctx-deployment=d.toml", "--longctx-results=kept/results")
        own = (*("-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=."), *chosen)
        # A shell starts background jobs with SIGINT ignored, and child processes inherit that.
        self.command = ["env", "--default-signal=INT", sys.executable, "-m", "pytest", *own]
        self.locks = folder / "runtime" / "pytest-longctx"
        self.locks.parent.mkdir(mode=0o700, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.environ = {**kept, MARK: word, "XDG_RUNTIME_DIR": str(self.locks.parent)}
        self.results = folder / "kept" / "results" / results.NAME

    def phase(self) -> str:
        """Return the phase of the run at this moment."""
        reached = next((name for name in FILES if (self.folder / name).exists()), None)
        there = self.processes.alive().values()
        return reached or ("boot" if "engine" in there else "start")

    @contextmanager
    def _started(self) -> Iterator[subprocess.Popen[Any]]:
        for name in FILES:
            (self.folder / name).unlink(missing_ok=True)
        with (
            (self.folder / "out.txt").open("wb") as out,
            subprocess.Popen(
                self.command, cwd=self.folder, env=self.environ, stdout=out, stderr=subprocess.STDOUT
            ) as run,
        ):
            self.processes.began(run.pid)
            try:
                yield run
            finally:
                run.kill()

    def undisturbed(self) -> None:
        """Check that a run to which nothing happens is as if there had never been another."""
        with self._started() as run:
            self._follow(run, None)
            code = run.poll()
        assert code == 0, (self.folder / "out.txt").read_text(encoding="utf-8")
        assert not self.processes.alive()
        assert not (still := [*self.held(), *self.locks.glob("*.engine")]), still
        assert [row["verdict"] for row in results.read(self.results).verdicts] == ["holds"]

    def _follow(self, run: subprocess.Popen[Any], wanted: str | None) -> None:
        """Wait until the run comes to the phase *wanted*, or to its end; note how long the phases before it took."""
        began_s: dict[str, float] = {}

        def there() -> bool:
            reached = self.phase() if run.poll() is None else "end"
            began_s.setdefault(reached, time.monotonic())
            return reached in (wanted, "end")

        wait_until(there, self.plan.patience_s, LOOK_S)
        for name, following in pairwise(began_s):
            self.phases_s[name] = began_s[following] - began_s[name]

    def kill(self, index: int) -> Kill:
        """Start a run, and send the signal number *index*."""
        draw = self.plan.draw(self.seed, index)
        delay_s = draw.share * self.phases_s[draw.phase]
        with self._started() as run:
            self._follow(run, draw.phase)
            wait_until(lambda: self.processes.alive() and run.poll() is not None, delay_s, LOOK_S)
            phase = self.phase()
            hit = self.processes.signal(draw.targets, draw.how) if run.poll() is None else ()
            took_s = elapsed()
            with suppress(subprocess.TimeoutExpired):
                run.wait(self.plan.patience_s)
            ended_s, code = took_s(), run.poll()
        both = {"run", "supervisor"} <= set(hit)
        wait_until(lambda: not self.processes.alive(), self.plan.swept_after_s if both else ORPHANS_S, LOOK_S)
        swept = self._swept() if both else 0
        gone_s = took_s()
        verdicts, wrong = self._results(phase, "run" in hit and draw.how is signal.SIGKILL)
        problems = (*self._left(), *wrong, *self._code(code, phase, hit, draw.how))
        figures = round(delay_s, 3), hit, draw.how.name, code, round(ended_s, 2), round(gone_s, 2), swept, verdicts
        return Kill(draw.phase, phase, *figures, problems)

    def _swept(self) -> int:
        """End what is left as the next run does; return how many processes there were."""
        left = len(self.processes.alive())
        end = "from pytest_longctx.processes.orphans import end_orphans; end_orphans()"
        subprocess.run([sys.executable, "-c", end], env=self.environ, check=True)
        return left

    def held(self) -> list[Path]:
        """Return the locks of these runs that a process holds."""
        return [path for path in self.locks.glob("*") if _is_held(path)]

    def _left(self) -> Iterator[str]:
        """Name what is left of a run: processes, locks, open ports."""
        yield from self.processes.described()
        yield from (f"lock {path.name} is held" for path in self.held())
        for port in self.processes.ports:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    yield f"port {port} accepts connections"

    def _results(self, phase: str, cut: bool) -> tuple[int, list[str]]:
        """
        Return the number of verdicts in the results, and what is wrong with them: a test that has ended must be among
        them, a signal is no verdict, and only a run that was killed lacks the footer.
        """
        early = phase in ("start", "boot")
        try:
            rows = results.begun(self.results)
        except ResultsError as problem:
            empty = not self.results.exists() or not self.results.stat().st_size
            return 0, [] if early and cut and empty else [str(problem)]
        found = [row["verdict"] for row in rows if row["kind"] == "verdict"]
        wrong = [] if found == ["holds"] or (early and not found) else [f"verdicts: {found}"]
        if not cut and rows[-1]["kind"] != "footer":
            wrong.append("the results have no footer")
        return len(found), wrong

    def _code(self, code: int | None, phase: str, hit: Sequence[str], how: signal.Signals) -> Iterator[str]:
        """A run that got no signal passes, or fails because its engine did; any other exit code is wrong."""
        if "run" in hit:
            right: tuple[int, ...] = {signal.SIGKILL: (-9,), signal.SIGINT: (2,), signal.SIGTERM: (143,)}[how]
            if phase == "teardown" and how is not signal.SIGKILL:
                right += (0,)  # it may have passed by then
        else:
            right = (0, 1) if hit else (0,)
        if code not in right:
            tail = (self.folder / "out.txt").read_text(encoding="utf-8", errors="replace")[-2000:]
            yield f"exit code {code} instead of {right}: {tail}"


def _is_held(path: Path) -> bool:
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
