"""Kills of the run, its supervisor, its engine and combinations at random moments, one run after another in one folder."""

import json

import pytest

from tests.hostile import KILLS, KILLS_RECORD, KILLS_SEED
from tests.hostile.kills import Killing, kill_runs

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


@pytest.mark.timeout(600 + 60 * KILLS)
def test_nothing_is_left_and_the_next_run_is_sound_after_kills_at_random_moments(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WORKERS, encoding="utf-8")
    deployment = f"{DEPLOYMENT}PYTHONPATH = {json.dumps(str(tmp_path / 'site'))}\n"
    phases_s = {"start": 1.0, "boot": 1.0, "prefill": 1.0, "teardown": 0.5}
    killing = Killing(tmp_path, deployment, "miniature", 20_000, phases_s, patience_s=180.0, seed=KILLS_SEED)
    kill_runs(killing, KILLS, KILLS_RECORD)
    print(killing.report()["counts"])
