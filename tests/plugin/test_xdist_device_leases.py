"""Two workers with two simulated GPUs: two deployments run at once, each with its own device."""

import os

from pytest_longctx import paths
from pytest_longctx.reports import results

ONE = """
name = "{name}"
title = "t"
backend = "pretended"
hardware = "{hardware}"
max_model_len = 20000
[model]
name = "miniature"
weights = "unknown"
[timeouts]
boot_s = 30
"""

BACKEND = """
import os
import time
from contextlib import contextmanager
from pathlib import Path

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.launchers.process import ProcessLauncher

class Pretended(Miniature):
    name = "pretended"
    shares_machine = False
    failures = "vllm"

class Meeting(ProcessLauncher):
    "A server is handed out once both are up."
    @contextmanager
    def up(self, launch):
        with super().up(launch) as server:
            Path(f"up-{launch.deployment.name}").touch()
            until = time.monotonic() + 20
            while len(list(Path().glob("up-*"))) < 2 and time.monotonic() < until:
                time.sleep(0.05)
            yield server

def pytest_longctx_make_backend(name):
    return Pretended() if name == "pretended" else None

def pytest_longctx_make_launcher(kind):
    return Meeting() if kind == "meeting" else None
"""


def prepared(pytester, hardware):
    pytester.syspathinsert()
    pytester.makepyfile(pretending=BACKEND)
    folder = pytester.mkdir("deployments")
    for name in ("first", "second"):
        (folder / f"{name}.toml").write_text(ONE.format(name=name, hardware=hardware))
    return ("--backend=pretended", "--longctx-data=.", "-p", "pretending", "-m", "smoke", "-n2")


def test_two_deployments_are_up_at_once_on_different_devices(run, pytester, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    reported = prepared(pytester, "1xH200")
    # A separate process, because xdist passes the start path of its interpreter to the workers.
    here = (str(paths.suites()), "-c", str(pytester.path / "tox.ini"), f"--rootdir={pytester.path}")
    spread = ("--longctx-hardware=2xH200", "--longctx-launcher=meeting")
    outcome = pytester.runpytest_subprocess(*here, *reported, *spread)
    outcome.assert_outcomes(passed=4)
    booted = results.read(pytester.path / "results" / "results.jsonl").boots
    assert len(booted) == 2
    assert sorted(row["words"]["CUDA_VISIBLE_DEVICES"] for row in booted) == ["0", "1"]


def test_a_cpu_is_not_leased(run, pytester):
    done = run(*prepared(pytester, "cpu"), "--longctx-hardware=2xH200")
    assert "each worker would boot its own pretended server" in done.text
