"""Complete and valid values for the tests; only the named parts differ."""

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pytest_longctx import toml
from pytest_longctx.client.exchange import Exchange, Usage
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.findings.finding import Bound, Finding
from pytest_longctx.reports.properties import Entry
from pytest_longctx.reports.results import Results

LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
"""The config.json of Llama 3.1 8B, without what no prediction reads."""

_WALKED = (
    *("h200x1-probe-sglang-10m", "h200x1-probe-sglang-10m-large-chunks", "h200x1-probe-sglang-10m-page-64"),
    *("scout12-sglang-10m", "scout12-sglang-10m-256-requests", "scout12-sglang-10m-few-requests"),
    *("scout12-sglang-10m-graphs", "scout12-sglang-10m-page-64", "scout12-sglang-8388480-graphs"),
    *("scout12-sglang-8389000-graphs", "scout12-sglang-text-10m", "scout12-sglang-text-10m-few-requests"),
)
_UNKNOWN = ("cpu-kv-e4m3-scales", "scout-vllm-5m-enable-hybrid-flag")
MISTAKEN = {**{name: ["unknown-flag"] for name in _UNKNOWN}, **{name: ["radix-walk"] for name in _WALKED}}
"""Shipped deployments with a deliberate mistake (VC-0037, SC-0029, SG-0028)."""


def finding(**changes: Any) -> Finding:
    """Return a finding that boots a deployment."""
    content: dict[str, Any] = {
        "id": "TT-0001",
        "title": "it comes up",
        "question": "boots",
        "markers": ["boot"],
        "status": "confirmed",
        "reviewed": dt.date(2026, 1, 2),
        "source": {"document": "docs/somewhere.md"},
    }
    return toml.check({**content, **changes}, Finding, "a finding")


def bound(**content: Any) -> Bound:
    """Return a bound in seconds."""
    return toml.check({"unit": "s", **content}, Bound, "a bound")


def deployment(**changes: Any) -> Deployment:
    """Return a deployment without special properties."""
    content: dict[str, Any] = {"name": "tiny", "title": "tiny", "backend": "vllm", "model": {"name": "llama"}}
    return toml.check({**content, **changes}, Deployment, "a deployment")


def exchange(**changes: Any) -> Exchange:
    """Return a complete cold exchange of 100 + 4 tokens, with its first token after two seconds."""
    content: dict[str, Any] = {
        "sent_tokens": 100,
        "asked_tokens": 4,
        "started_s": 50.0,
        "ending": "complete",
        "ended_s": 54.0,
        "uploaded_s": 50.5,
        "arrivals_s": (52.0, 52.5, 53.5),
        "usage": Usage(100, 4, 0),
    }
    return Exchange(**{**content, **changes})


def results(*verdicts: dict[str, Any], boots: Sequence[dict[str, Any]] = (), **more: Any) -> Results:
    """Return a complete results file with *verdicts*."""
    header = {
        "kind": "header",
        "started": "2026-01-02T03:04:05+00:00",
        "longctx": "0.1.0",
        "pytest": "9.0",
        "arguments": ["suites", "--backend=vllm", "--longctx-hardware=cpu", "--junitxml=report.xml"],
        "backend": "vllm",
        "launcher": "process",
        "hardware": "cpu",
        "machine": {"host_cpu": "x86_64"},
        "seed": 7,
    }
    counts = Counter(row["verdict"] for row in verdicts)
    footer = {"kind": "footer", "finished": "2026-01-02T03:05:05+00:00", "exit_code": 0, "verdicts": counts}
    return Results(header, footer, list(boots), list(verdicts), **more)


def verdict(
    finding: str = "TT-0001", deployment: str = "tiny", word: str = "holds", **measured: float
) -> dict[str, Any]:
    """Return the row of a verdict with these measured figures."""
    entry = Entry(
        finding,
        word,
        title=f"title of {finding}",
        measured=measured,
        server={"deployment": deployment, "hardware": "cpu"},
    )
    return {"kind": "verdict", "test": f"test_x.py::test_x[{finding}-{deployment}]", "duration_s": 1.0, **asdict(entry)}


def booted(deployment: str = "tiny", **changes: Any) -> dict[str, Any]:
    """Return the row of a boot."""
    facts = {"deployment": deployment, "engine": "vllm 1.0", "model": "tiny", "hardware": "cpu", "launcher": "process"}
    rest = {"outcome": "serves", "seconds": 2.0, "signature": None, "said": "", "figures": {}, "words": {}, "log": None}
    return {"kind": "boot", **facts, **rest, **changes}
