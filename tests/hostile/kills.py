"""
Kills at random moments of whole runs, one run after another in one folder: of pytest, of the supervisor, of the engine.

A run goes through four phases: the start of pytest, the boot of the engine, a long prefill, the teardown. A moment is a phase
and a delay after its beginning, and both come from a seed.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pytest_longctx.processes import orphans
from pytest_longctx.processes.progress import wait_until
from pytest_longctx.reports import results
from tests.hostile.servers import elapsed

ORPHANS_S = 20.0
"""Seconds after a kill within which no process may be left."""
PHASES = ("start", "boot", "prefill", "teardown")
TARGETS = (("run",), ("supervisor",), ("engine",), ("run", "supervisor"), ("supervisor", "engine"))
"""What is killed at once; the first three more often. Nothing is left to end the workers if run and supervisor are both killed."""
WEIGHTS = (3, 3, 3, 1, 1)
MARK = "LONGCTX_KILLS_MARK"
"""Variable in the environment of every process of an engine, because engines rename their workers."""
TEST = """
from pathlib import Path

import pytest

@pytest.mark.finding("LC-0001")
def test_judged(finding, server, ask, prompt, judge):
    assert judge(ask(prompt(1000), 32))

def test_long(server, ask, prompt):
    Path("phase").write_text("prefill")
    ask(prompt({tokens}), 8)
    Path("phase").write_text("teardown")
"""


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, and what became of it."""

    phase: str
    """When: the phase of the run at that moment."""
    delay_s: float
    targets: tuple[str, ...]
    """What was killed; none if the run had ended by then."""
    gone_s: float
    """Seconds until no process of the engine was left."""
    swept: bool
    """Whether the next run had to end what was left, because the run and its supervisor were killed together."""
    verdicts: int
    """Verdicts that the results file had."""


@dataclass
class Killing:
    """Runs of one deployment in *folder*, which are killed one after another."""

    folder: Path
    deployment: str
    """The deployment as TOML, with a table ``[env]``, which gets the mark."""
    backend: str
    long_tokens: int
    phases_s: Mapping[str, float]
    """About how long each phase takes; delays are up to that."""
    patience_s: float
    """Most seconds that a run may take."""
    seed: int = 1
    kills: list[Kill] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.word = f"{os.getpid()}-{self.seed}-{self.folder.name}"
        self.rng = random.Random(self.seed)
        marked = self.deployment.replace("[env]\n", f'[env]\n{MARK} = "{self.word}"\n')
        (self.folder / "d.toml").write_text(marked, encoding="utf-8")
        (self.folder / "test_it.py").write_text(TEST.format(tokens=self.long_tokens), encoding="utf-8")
        chosen = (f"--backend={self.backend}", "--longctx-deployment=d.toml", "--longctx-results=kept/results")
        own = (*("-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=."), *chosen)
        self.command = [sys.executable, "-m", "pytest", *own]
        self.results = self.folder / "kept" / "results" / results.NAME

    def alive(self) -> dict[int, str]:
        """Every process of the engine and its supervisor, with its role."""
        found: dict[int, tuple[int, bytes]] = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{MARK}={self.word}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    parent = int((path / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
                    found[int(path.name)] = parent, (path / "cmdline").read_bytes()
        supervisors = {pid for pid, (_, line) in found.items() if b"_supervisor.py" in line}
        return {
            pid: "supervisor" if pid in supervisors else "engine" if parent in supervisors else "worker"
            for pid, (parent, _) in found.items()
        }

    def phase(self) -> str:
        with suppress(OSError):
            return (self.folder / "phase").read_text(encoding="utf-8") or "boot"
        return "boot" if "engine" in self.alive().values() else "start"

    def undisturbed(self) -> None:
        """A run that nothing happens to: as if there had never been another."""
        (self.folder / "phase").unlink(missing_ok=True)
        done = subprocess.run(
            self.command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=self.patience_s
        )
        assert done.returncode == 0, done.stdout
        assert not self.alive()
        assert [row["verdict"] for row in results.read(self.results).verdicts] == ["holds"]

    def kill(self) -> Kill:
        """Start a run and kill something at a moment of the next phase in turn."""
        wanted = PHASES[len(self.kills) % len(PHASES)]
        targets = self.rng.choices(TARGETS, WEIGHTS)[0] if wanted != "start" else ("run",)
        delay_s = self.rng.uniform(0, self.phases_s[wanted])
        (self.folder / "phase").unlink(missing_ok=True)
        with subprocess.Popen(
            self.command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        ) as run:
            assert wait_until(lambda: self.phase() == wanted or run.poll() is not None, self.patience_s, 0.05)
            with suppress(subprocess.TimeoutExpired):
                run.wait(delay_s)
            phase, hit = self.phase(), self._killed(run, targets)
            took_s = elapsed()
            run.wait(timeout=self.patience_s)
        if not hit:
            assert run.returncode == 0
        swept = {"run", "supervisor"} <= set(hit) and bool(self.alive())
        if swept:
            orphans.end_orphans()
        assert wait_until(lambda: not self.alive(), ORPHANS_S, 0.02), (phase, hit, self.alive())
        made = Kill(phase, round(delay_s, 3), hit, round(took_s(), 2), swept, self._verdicts(phase))
        self.kills.append(made)
        return made

    def _killed(self, run: subprocess.Popen[Any], targets: Sequence[str]) -> tuple[str, ...]:
        """Kill the *targets*, or the run if there is none of them at this moment; return what was killed."""
        if run.poll() is not None:
            return ()
        there = {"run": run.pid, **{role: pid for pid, role in self.alive().items()}}
        hit = [target for target in targets if target in there] or ["run"]
        for target in hit:
            with suppress(ProcessLookupError):
                os.kill(there[target], signal.SIGKILL)
        return tuple(hit)

    def _verdicts(self, phase: str) -> int:
        """Verdicts in the results, which can be read; a test that has ended is among them."""
        if not self.results.exists() or not self.results.stat().st_size:
            assert phase in ("start", "boot")
            return 0
        found = [row for row in results.begun(self.results) if row["kind"] == "verdict"]
        assert phase in ("start", "boot") or [row["verdict"] for row in found] == ["holds"]
        return len(found)

    def report(self) -> dict[str, Any]:
        """What was killed when, with the slowest end; and every kill."""
        counts = Counter(f"{each.phase}: {' and '.join(each.targets) or 'nothing'}" for each in self.kills)
        return {
            "seed": self.seed,
            "kills": sum(bool(each.targets) for each in self.kills),
            "orphans_after_20_s": 0,
            "slowest_end_s": max(each.gone_s for each in self.kills),
            "swept_by_the_next_run": sum(each.swept for each in self.kills),
            "counts": dict(sorted(counts.items())),
            "each": [asdict(each) for each in self.kills],
        }


def kill_runs(killing: Killing, count: int, record: str | None) -> None:
    """Kill *count* runs; the first, every tenth and the last are followed by one that is not disturbed."""
    killing.undisturbed()
    for index in range(count):
        killing.kill()
        if index % 10 == 9 or index == count - 1:
            killing.undisturbed()
    if record:
        Path(record).write_text(json.dumps(killing.report(), indent=1) + "\n", encoding="utf-8")
