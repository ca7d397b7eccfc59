"""Kills of the supervisor, of the run and of the engine, while the engine has workers in sessions of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_longctx import processes
from pytest_longctx.backends import Recipe
from pytest_longctx.errors import LaunchError
from pytest_longctx.processes import Process, environment, orphans
from pytest_longctx.processes.progress import wait_until
from tests.hostile.servers import elapsed
from tests.plugin.test_launcher_process_supervisor import processes as alive

ENGINE = """
import signal, subprocess, sys, time
deaf = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('UP', flush=True); time.sleep(600)"
for env in (None, None, {}):
    subprocess.Popen([sys.executable, "-c", deaf, sys.argv[1]], env=env, start_new_session=True)
time.sleep(600)
"""
"""The environment of the last worker has no mark, as after ``setproctitle``, with which vLLM names its processes."""
LISTED_S = 2.0
"""Within this time the supervisor has seen every process."""
RUN = """
import os, sys, time
from pathlib import Path
from pytest_longctx.backends import Recipe
from pytest_longctx.processes import Process, environment
recipe = Recipe(name="t", argv=(sys.executable, "-c", sys.argv[1], sys.argv[2]), env={}, port=0, model="m", boot_s=1.0)
process = Process(recipe, environment(recipe, os.environ), Path(sys.argv[3]))
print(process.pid, flush=True)
time.sleep(600)
"""


@contextmanager
def started(tmp_path, word) -> Iterator[Process]:
    recipe = Recipe(name="t", argv=(sys.executable, "-c", ENGINE, word), env={}, port=0, model="m", boot_s=1.0)
    process = Process(recipe, environment(recipe, os.environ), tmp_path / "log")
    try:
        assert wait_until(lambda: (tmp_path / "log").read_text(encoding="utf-8").count("UP") == 3, 30)
        yield process
    finally:
        process.stop()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=lambda how: how.name)
def test_nothing_is_left_whatever_happens_to_the_supervisor(tmp_path, how, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_S", 1.0)
    word = f"kills-{os.getpid()}-{how.name}"
    with started(tmp_path, word) as process:
        assert len(alive(word)) >= 5  # supervisor, engine, three workers
        time.sleep(LISTED_S)
        os.kill(process.pid, how)
    assert alive(word) == []
    assert process.exit_code() == 128 + (how if how == signal.SIGKILL else signal.SIGTERM)


@pytest.mark.timeout(120)
def test_what_a_signal_from_outside_did_to_a_worker_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_S", 1.0)
    word = f"kills-{os.getpid()}-outside"
    with started(tmp_path, word) as process:
        worker = max(alive(word))
        assert process.halted() == ()
        os.kill(worker, signal.SIGSTOP)
        assert wait_until(process.halted, 20)[0].startswith(f"process {worker} (")
        time.sleep(1.5)  # the supervisor looks for new processes every second
        os.kill(worker, signal.SIGKILL)
        (end,) = wait_until(process.ends, 20)
        assert (end.pid, end.number) == (worker, signal.SIGKILL)
        assert process.evidence(None).process_ends == (end,)
        assert process.exit_code() is None
    assert alive(word) == []


@pytest.mark.timeout(120)
def test_the_next_run_ends_what_a_killed_run_and_its_killed_supervisor_left(tmp_path):
    word = f"kills-{os.getpid()}-both"
    with subprocess.Popen(
        [sys.executable, "-c", RUN, ENGINE, word, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    ) as run:
        try:
            assert run.stdout is not None
            supervisor = int(run.stdout.readline())
            assert wait_until(lambda: (tmp_path / "log").read_text(encoding="utf-8").count("UP") == 3, 30)
            orphans.end_orphans()
            time.sleep(LISTED_S)
            assert len(alive(word)) >= 6, "a run that lives keeps its engine"
            os.kill(supervisor, signal.SIGKILL)
        finally:
            run.kill()
    assert wait_until(lambda: len(alive(word)) == 3, 10), "the workers are in sessions of their own"
    orphans.end_orphans()
    assert alive(word) == []


def test_what_cannot_be_ended_is_named(tmp_path, monkeypatch):
    word = f"kills-{os.getpid()}-named"
    monkeypatch.setattr(orphans, "_end", lambda mark: [os.getpid()])
    with pytest.raises(LaunchError, match=rf"could not be ended: process {os.getpid()} \("), started(tmp_path, word):
        pass
    monkeypatch.undo()
    orphans.end_orphans()
    assert alive(word) == []


@pytest.mark.timeout(120)
def test_workers_that_outlive_their_engine_are_given_less_time_than_the_engine(tmp_path, monkeypatch):
    """The grace is a minute here, which the engine does not need; its workers ignore every request to end."""
    monkeypatch.setattr(processes, "GRACE_S", 60.0)
    monkeypatch.setattr(processes, "_STOP_S", 100.0)
    word = f"kills-{os.getpid()}-orphaned"
    with started(tmp_path, word):
        took_s = elapsed()
    assert alive(word) == []
    assert took_s() < 50
