"""
Kills of the run, its supervisor, its engine and combinations at random moments, one run after another in one folder.

``python -m tests.external.engine.random_kills`` does the same to a real engine.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from pytest_longctx.processes.progress import wait_until
from pytest_longctx.reports import results
from tests.hostile import KILLS, KILLS_RECORD, KILLS_SEED
from tests.hostile.kills import Killing, Plan

WORKERS = """
import os, subprocess, sys, time
if not os.environ.get("IS_WORKER"):
    with open(__file__ + ".boots", "a") as file:
        file.write(".")
        deaf = file.tell() % 3 == 0
    work = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); engine = os.getppid(); end = time.time() + 600"
    until = "" if deaf else " and os.getppid() == engine"
    work += f"\\nwhile time.time() < end{until}: time.sleep(0.2)"
    for _ in range(2):
        environ = {**os.environ, "IS_WORKER": "1"}
        subprocess.Popen([sys.executable, "-c", work], env=environ, start_new_session=True)
    time.sleep(0.5)
"""
"""
The engine takes a while to boot, and has workers in sessions of their own that ignore SIGTERM. They end after their engine, as
vLLM's do; those of every third boot never do.
"""
DEPLOYMENT = """
name = "killed"
title = "a miniature that is killed"
backend = "miniature"
max_model_len = 32768
[model]
name = "miniature"
weights = "unknown"
[flags]
fault = "late-first-token"
late-s = 1.0
[env]
"""

RUN, SUPERVISOR, ENGINE = ("run",), ("supervisor",), ("engine",)
TARGETS = (RUN, RUN, SUPERVISOR, SUPERVISOR, ENGINE, ENGINE, RUN + SUPERVISOR, SUPERVISOR + ENGINE)
"""Nothing is left to end the workers if run and supervisor are both killed."""
PHASES = ("start", "boot", "prefill", "teardown")


@pytest.mark.timeout(600 + 60 * KILLS)
def test_nothing_is_left_and_the_next_run_is_sound_after_kills_at_random_moments(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WORKERS, encoding="utf-8")
    deployment = f"{DEPLOYMENT}PYTHONPATH = {json.dumps(str(tmp_path / 'site'))}\n"
    names = {"worker": b"os.getppid()"}
    plan = Plan("miniature", deployment, 20_000, 8, PHASES, TARGETS, names, patience_s=180.0)
    killing, kills = Killing(tmp_path, plan, KILLS_SEED), []
    killing.undisturbed()
    for index in range(KILLS):
        kills.append(killing.kill(index))
        if index % 10 == 9 or index == KILLS - 1:
            killing.undisturbed()
    if KILLS_RECORD:
        Path(KILLS_RECORD).write_text(json.dumps([asdict(each) for each in kills], indent=1) + "\n", encoding="utf-8")
    assert [each.problems for each in kills if each.problems] == []


def killing_of(folder):
    plan = Plan("miniature", DEPLOYMENT, 20_000, 8, PHASES, TARGETS, {}, patience_s=1.0)
    return Killing(folder, plan, 1)


def test_a_process_a_lock_and_a_port_that_are_left_are_named(tmp_path):
    killing = killing_of(tmp_path)
    killing.locks.mkdir(mode=0o700)
    assert list(killing._left()) == []
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        (killing.locks / "a.lock").open("w") as lock,
        subprocess.Popen(["sleep", "600"], env=killing.environ) as left,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        killing.processes.ports.add(server.getsockname()[1])
        assert wait_until(killing.processes.alive, 20)  # a process that has just started may have no environment yet
        found = list(killing._left())
        left.kill()
    assert [each.partition(" ")[0] for each in found] == ["other:", "lock", "port"]
    assert str(left.pid) in found[0]


def test_a_process_without_the_mark_is_found_after_its_parents_have_ended(tmp_path):
    """It is a descendant of the run when it is first seen, and belongs to init when it is looked for again."""
    killing, work = killing_of(tmp_path), "import os, time; os.fork() or os.setsid(); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", work], env={}) as run:
        killing.processes.began(run.pid)
        assert wait_until(lambda: len(killing.processes.alive()) == 2, 20)
        run.kill()
    (left,) = killing.processes.alive()
    os.kill(left, signal.SIGKILL)
    assert wait_until(lambda: not killing.processes.alive(), 20)


@pytest.mark.parametrize(
    ("verdicts", "ended", "phase", "cut", "problems"),
    [
        (["holds"], True, "prefill", False, []),
        (["holds"], False, "prefill", True, []),
        ([], False, "boot", True, []),
        (["holds"], False, "prefill", False, ["the results have no footer"]),
        ([], True, "prefill", True, ["verdicts: []"]),
        (["broken"], True, "boot", True, ["verdicts: ['broken']"]),
        (["holds", "broken"], True, "prefill", True, ["verdicts: ['holds', 'broken']"]),
    ],
)
def test_wrong_results_are_named(tmp_path, monkeypatch, verdicts, ended, phase, cut, problems):
    rows = [{"kind": "header"}, *({"kind": "verdict", "verdict": each} for each in verdicts)]
    monkeypatch.setattr(results, "begun", lambda path: rows + ([{"kind": "footer"}] if ended else []))
    assert killing_of(tmp_path)._results(phase, cut) == (len(verdicts), problems)


def test_results_that_cannot_be_read_are_named(tmp_path):
    killing = killing_of(tmp_path)
    assert killing._results("boot", cut=True) == (0, [])
    killing.results.parent.mkdir(parents=True)
    killing.results.write_text("{", encoding="utf-8")
    _, (problem,) = killing._results("boot", cut=True)
    assert "must be a results file" in problem


def test_a_draw_comes_from_the_seed_and_its_number_and_each_target_has_its_turn():
    plan = Plan("miniature", DEPLOYMENT, 1, 1, PHASES, TARGETS, {}, 1.0, {signal.SIGKILL: 1.0, signal.SIGINT: 1.0})
    draws = [plan.draw(7, index) for index in range(32)]
    assert draws == [plan.draw(7, index) for index in range(32)]
    assert draws != [plan.draw(8, index) for index in range(32)]
    for place, phase in enumerate(PHASES):
        assert sorted(draw.targets for draw in draws[place::4]) == sorted(TARGETS)
        assert {draw.phase for draw in draws[place::4]} == {phase}
    assert {draw.how for draw in draws if len(draw.targets) > 1} == {signal.SIGKILL}
    assert {draw.how for draw in draws} == {signal.SIGKILL, signal.SIGINT}
