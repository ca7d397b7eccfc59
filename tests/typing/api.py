"""
User code against this package, type-checked but never run: mypy reads it here, and `.ci/package` checks it with an installed
wheel.
"""

from pathlib import Path
from typing import assert_type

import pytest

from pytest_longctx.backends import Backend
from pytest_longctx.client.exchange import Exchange, Refusal, UnservedError
from pytest_longctx.client.load import Load as Carried
from pytest_longctx.client.load import observe
from pytest_longctx.client.server import Server
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Machine
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.verdicts import Verdict
from pytest_longctx.launchers import Launcher
from pytest_longctx.launchers.boot import Boot
from pytest_longctx.observation import Observation
from pytest_longctx.plugin.fixtures import Ask, Load
from pytest_longctx.plugin.session import Judge, Session
from pytest_longctx.prompts import Prompt, PromptFactory
from pytest_longctx.reports import results as results_file


@pytest.mark.finding("LC-0002")
def test_of_a_project(
    finding: Finding, server: Server, boot: Boot, prompt: PromptFactory, ask: Ask, load: Load, judge: Judge
) -> None:
    exchange = ask(prompt("10k"), output_tokens=32, deadline_s=60.0)
    assert_type(exchange, Exchange)
    assert_type(exchange.usage.prompt_tokens, int | None)
    assert_type(ask(prompt("10k"), unserved="return").refusal, Refusal | None)
    assert_type(UnservedError("in words", exchange).exchange, Exchange)
    assert_type(prompt(10_000), Prompt)
    assert_type(exchange.ttft_s, float | None)
    assert_type(exchange.text, str)
    assert_type(server.max_model_len, int | None)
    carried = load(1024, 128, requests=10, concurrency=2)
    assert_type(carried, Carried)
    assert_type(observe(carried), Observation)
    assert_type(boot.weigh(exchange), Observation)
    assert_type(boot.evidence([exchange, exchange]), Observation)
    assert_type(finding.id, str)
    verdict = judge([exchange, exchange])
    assert_type(verdict, Verdict)
    assert verdict


def pytest_longctx_make_backend(config: pytest.Config, name: str) -> Backend | None:
    class Mine(Backend):
        name = "mine"

        def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
            return (python, "-m", "mine", model, str(port), *deployment.arguments())

    return Mine() if name == "mine" else None


def pytest_longctx_make_launcher(config: pytest.Config, kind: str, what: str) -> Launcher | None:
    return None


def pytest_longctx_judged(item: pytest.Item, verdict: Verdict) -> None:
    assert_type(verdict.finding.id, str)


def pytest_longctx_describe_machine(machine: Machine) -> None:
    machine.facts["rack"] = "B12"


def count(path: Path, session: Session) -> int:
    results = results_file.read(path)
    assert_type(session.seed, int)
    return len(results.verdicts)
