"""Kills of the run, its supervisor, its engine and combinations at random moments, one run after another in one folder."""

import json
import os
import random
import signal
import subprocess
from collections import Counter
from contextlib import suppress

import pytest

from pytest_longctx.processes import orphans
from pytest_longctx.processes.progress import wait_until
from pytest_longctx.reports import results
from tests.hostile import KILLS
from tests.hostile.servers import elapsed
from tests.plugin.test_launcher_process_supervisor import processes as alive
from tests.plugin.test_run_interrupted import prepared

ORPHANS_S = 20.0
WORKERS = """
import os, subprocess, sys
if not os.environ.get("IS_WORKER"):
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    for _ in range(2):
        environ = {**os.environ, "IS_WORKER": "1"}
        subprocess.Popen([sys.executable, "-c", deaf, NAME], env=environ, start_new_session=True)
"""
"""The engine has workers in sessions of their own that ignore SIGTERM."""
TARGETS = (("run", "supervisor"), ("engine",), ("run",), ("supervisor",), ("supervisor", "engine"))


def found(word):
    """The supervisor and the engine of a run, by their command lines."""
    rows = {}
    for pid in alive(word):
        with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
            line = file.read()
            rows[
                "supervisor" if b"_supervisor.py" in line else "engine" if b"pytest_longctx.miniatures" in line else ""
            ] = pid
    return rows


def killed(run, targets, name):
    """Kill the *targets*, or the run if there is none of them at this moment; return what was killed."""
    there = {"run": run.pid, **found(name)}
    hit = [target for target in targets if target in there] or ["run"]
    for target in hit:
        with suppress(ProcessLookupError):
            os.kill(there[target], signal.SIGKILL)
    return hit


@pytest.mark.timeout(120 + 120 * KILLS)
def test_nothing_is_left_and_the_next_run_is_sound_after_kills_at_random_moments(tmp_path):
    name, rng = f"random-kills-{os.getpid()}", random.Random(KILLS)
    counts: Counter[str] = Counter()
    command = prepared(tmp_path, name)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WORKERS.replace("NAME", repr(name)), encoding="utf-8")
    with (tmp_path / "d.toml").open("a", encoding="utf-8") as file:
        file.write(f"[env]\nPYTHONPATH = {json.dumps(str(tmp_path / 'site'))}\n")
    written = tmp_path / "kept" / "results" / results.NAME

    def undisturbed():
        took_s = elapsed()
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        assert alive(name) == []
        assert [row["verdict"] for row in results.read(written).verdicts] == ["holds"]
        return took_s()

    whole_s = undisturbed()
    for index in range(KILLS):
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as run:
            took_s = elapsed()
            with suppress(subprocess.TimeoutExpired):
                run.wait(rng.uniform(0.2, 0.95) * whole_s)
                whole_s = min(whole_s, took_s())  # the machine was busier when it was measured
            hit = killed(run, TARGETS[index % len(TARGETS)], name) if run.poll() is None else ["nothing"]
            counts["+".join(hit)] += 1
            run.wait(timeout=60)
        if {"run", "supervisor"} <= set(hit):
            orphans.end_orphans()  # nothing is left that could end the workers, but the next run
        assert wait_until(lambda: not alive(name), ORPHANS_S), (index, hit, found(name))
        if written.exists() and written.stat().st_size:
            results.begun(written)
    undisturbed()
    print(f"killed: {dict(counts)}; a whole run takes {whole_s:.1f} s")
