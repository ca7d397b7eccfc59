"""The example launcher that plants a fault: a cut prompt is judged, and processes are stopped for a share of their time, and run again."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_longctx.errors import UsageError
from tests.conftest import FAULTY

FILE = Path(__file__).parents[2] / "docs/examples/planted.py"


@pytest.fixture
def planted():
    spec = importlib.util.spec_from_file_location("planted", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_cut_prompt_is_judged_by_its_count(run, monkeypatch):
    monkeypatch.syspath_prepend(str(FILE.parent))
    options = ("-p", "planted", "--backend=miniature", "-k", "LC-0001")
    cut = run(*options, "--longctx-launcher=planted:cut=600")
    cut.outcome.assert_outcomes(failed=1)
    (row,) = cut.results.verdicts
    assert (row["verdict"], row["measured"]["prompt_tokens"]) == ("broken", 600)
    assert row["server"]["launcher"] == "planted"
    whole = run(*options, "--longctx-launcher=planted:cut=1000")
    whole.outcome.assert_outcomes(passed=1)


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_group_is_stopped_for_a_share_of_its_time_and_goes_on(planted):
    with subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) as child:
        try:
            seen = []
            with planted.slowed(child.pid, 1.0):
                for _ in range(100):
                    time.sleep(0.01)
                    seen.append(state(child.pid))
            assert seen.count("T") > 10  # half of them on an idle machine
            assert seen.count("R") > 10
            assert [state(child.pid) for _ in range(10)] == ["R"] * 10
        finally:
            os.killpg(child.pid, signal.SIGKILL)


def test_the_group_that_is_stopped_is_that_of_the_engine(run, pytester, monkeypatch):
    """Not that of its supervisor, which does no work."""
    slow = FAULTY.format(fault="late-first-token", boot_s=30, answer_s=30, stall_s=30)
    (pytester.path / "slow.toml").write_text(slow.replace("crawl-s = 0.02", "late-s = 0.5"))
    monkeypatch.syspath_prepend(str(FILE.parent))
    stopped = []
    true = os.killpg

    def killpg(group, number):
        if number == signal.SIGSTOP:
            stopped.append(Path(f"/proc/{group}/cmdline").read_text())
        true(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    options = ("--backend=miniature", "--longctx-deployment=slow.toml", "-k", "LC-0002")
    done = run("-p", "planted", *options, "--longctx-launcher=planted:slower=20")
    done.outcome.assert_outcomes(passed=1)
    assert stopped
    assert all("pytest_longctx.miniatures" in line and "_supervisor" not in line for line in stopped)


@pytest.mark.parametrize("what", ["", "slower", "slower=fast", "slower=-1", "late=3"])
def test_a_fault_that_is_none_is_one_message(planted, what):
    with pytest.raises(UsageError, match=r"neither slower=PERCENT nor cut=TOKENS"):
        planted.pytest_longctx_make_launcher("planted", what)
    assert planted.pytest_longctx_make_launcher("other", what) is None
