"""
User code against this package, type-checked but never run: mypy reads it here, and `.ci/package` checks it with an installed
wheel.
"""

from pathlib import Path
from typing import assert_type

import pytest

import pytest_longctx as lc
from pytest_longctx import (
    Boot,
    Deployment,
    Exchange,
    Finding,
    LongctxError,
    Observation,
    Prompt,
    PromptFactory,
    Server,
    Verdict,
)
from pytest_longctx.backends import Backend, MetricNames, Recipe, load_signatures

# What only fixtures and hooks give.
from pytest_longctx.client.exchange import UnservedError
from pytest_longctx.deployments.hardware import Machine
from pytest_longctx.launchers import Launcher
from pytest_longctx.plugin.fixtures import Ask, Load
from pytest_longctx.plugin.session import Judge, Session


@pytest.mark.finding("LC-0002")
def test_of_a_project(
    finding: Finding, server: Server, boot: Boot, prompt: PromptFactory, ask: Ask, load: Load, judge: Judge
) -> None:
    exchange = ask(prompt("10k"), output_tokens=32, deadline_s=60.0)
    assert_type(exchange, Exchange)
    assert_type(exchange.usage.prompt_tokens, int | None)
    refusal = ask(prompt("10k"), unserved="return").refusal
    assert refusal is not None
    assert_type(refusal.status, int)
    assert_type(UnservedError("in words", exchange).exchange, Exchange)
    assert_type(prompt(10_000), Prompt)
    assert_type(exchange.ttft_s, float | None)
    assert_type(exchange.text, str)
    assert_type(server.max_model_len, int | None)
    carried = load(1024, 128, requests=10, concurrency=2)
    assert_type(carried, lc.Load)
    assert_type(carried.exchanges[0], Exchange)
    assert_type(boot.weigh(exchange), Observation)
    assert_type(boot.evidence([exchange, exchange]), Observation)
    assert_type(finding.id, str)
    verdict = judge([exchange, exchange])
    assert_type(verdict, Verdict)
    assert verdict


def pytest_longctx_make_backend(config: pytest.Config, name: str) -> Backend | None:
    class Mine(Backend):
        name = "mine"
        metrics = MetricNames(running=("mine:running",))
        catalogue = load_signatures(Path("mine.toml"))

        def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
            return (python, "-m", "mine", model, str(port), *deployment.arguments())

    return Mine() if name == "mine" else None


def pytest_longctx_make_launcher(config: pytest.Config, kind: str, what: str) -> Launcher | None:
    return None


def pytest_longctx_judged(item: pytest.Item, verdict: Verdict) -> None:
    assert_type(verdict.finding.id, str)


def pytest_longctx_describe_machine(machine: Machine) -> None:
    machine.facts["rack"] = "B12"


def seed_of(session: Session) -> int:
    return session.seed


def in_a_notebook(folder: Path) -> int:
    finding = lc.load_findings()["LC-0002"]
    assert_type(finding, Finding)
    deployment = lc.load_deployments(folder, "ours")["mine"]
    assert_type(deployment, Deployment)
    assert_type(lc.predict(deployment, hardware="4xH200"), lc.Prediction | None)
    assert_type(lc.predict(deployment), lc.Prediction | None)
    assert_type(lc.diagnose(lc.read_log(folder / "server.log", engine="vllm")), lc.Diagnosis | None)
    assert_type(lc.tokens("128Ki", seed=7), Prompt)
    assert_type(lc.judge(finding, Observation("serves")), Verdict)
    assert_type(lc.__version__, str)
    try:
        results = lc.read_results("results.jsonl")
    except LongctxError:
        return 0
    assert_type(results, lc.Results)
    return len(lc.compare(lc.read_results(folder / "baseline.jsonl"), results))


def in_a_script(server: Server, recipe: Recipe, prompt: Prompt) -> tuple[str, ...]:
    assert_type(lc.ask(server, prompt, 32), Exchange)
    return recipe.argv
