"""Values for the tests: whole and valid, with only the named parts changed."""

import datetime as dt
from typing import Any

from pytest_longctx import tables
from pytest_longctx.deployment import Deployment
from pytest_longctx.exchange import Exchange, Usage
from pytest_longctx.findings import Bound, Finding


def finding(**changes: Any) -> Finding:
    """A finding that a deployment boots."""
    content: dict[str, Any] = {
        "id": "TT-0001",
        "title": "it comes up",
        "question": "boots",
        "markers": ["boot"],
        "status": "confirmed",
        "reviewed": dt.date(2026, 1, 2),
        "source": {"document": "docs/somewhere.md"},
    }
    return tables.check({**content, **changes}, Finding, "a finding")


def bound(**content: Any) -> Bound:
    """A bound in seconds."""
    return tables.check({"unit": "s", **content}, Bound, "a bound")


def deployment(**changes: Any) -> Deployment:
    """A deployment of which nothing special is known."""
    content: dict[str, Any] = {"name": "tiny", "title": "tiny", "backend": "vllm", "model": {"name": "llama"}}
    return tables.check({**content, **changes}, Deployment, "a deployment")


def exchange(**changes: Any) -> Exchange:
    """A complete exchange of 100 + 4 tokens, cold, with its first token after two seconds."""
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
