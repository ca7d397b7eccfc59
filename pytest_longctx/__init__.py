"""
A pytest plugin and conformance suite for long-context LLM serving.

``import pytest_longctx as lc`` is for notebooks and scripts. Each name is imported at its first use. None needs pytest.
Authors of extensions import from ``pytest_longctx.backends`` and ``pytest_longctx.launchers``.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_longctx.backends.logs import diagnose, read_log
    from pytest_longctx.client.exchange import Exchange
    from pytest_longctx.client.load import Load
    from pytest_longctx.client.request import ask
    from pytest_longctx.client.server import Server
    from pytest_longctx.deployments.capacity import Prediction
    from pytest_longctx.deployments.deployment import Deployment, load_deployments
    from pytest_longctx.diagnosis.diagnose import Diagnosis
    from pytest_longctx.errors import LongctxError
    from pytest_longctx.findings.finding import Finding, load_findings
    from pytest_longctx.findings.verdicts import Verdict, judge
    from pytest_longctx.launchers.boot import Boot, boot
    from pytest_longctx.observation import Observation
    from pytest_longctx.plan import predict_deployment as predict
    from pytest_longctx.prompts import Prompt, PromptFactory
    from pytest_longctx.prompts.factory import tokens
    from pytest_longctx.reports.compare import compare
    from pytest_longctx.reports.results import Results
    from pytest_longctx.reports.results import read as read_results

__all__ = [
    "Boot",
    "Deployment",
    "Diagnosis",
    "Exchange",
    "Finding",
    "Load",
    "LongctxError",
    "Observation",
    "Prediction",
    "Prompt",
    "PromptFactory",
    "Results",
    "Server",
    "Verdict",
    "__version__",
    "ask",
    "boot",
    "compare",
    "diagnose",
    "judge",
    "load_deployments",
    "load_findings",
    "predict",
    "read_log",
    "read_results",
    "tokens",
]

__version__ = "0.1.0"

_HERE = Path(__file__).parent
if not (_HERE / "suites").is_dir() and (_HERE.parent / "suites").is_dir():
    # A wheel has the suites in the package. In a checkout they stand beside it, and are found under the same name.
    __path__.append(str(_HERE.parent))

_PLACES = {
    "Boot": "pytest_longctx.launchers.boot:Boot",
    "Deployment": "pytest_longctx.deployments.deployment:Deployment",
    "Diagnosis": "pytest_longctx.diagnosis.diagnose:Diagnosis",
    "Exchange": "pytest_longctx.client.exchange:Exchange",
    "Finding": "pytest_longctx.findings.finding:Finding",
    "Load": "pytest_longctx.client.load:Load",
    "LongctxError": "pytest_longctx.errors:LongctxError",
    "Observation": "pytest_longctx.observation:Observation",
    "Prediction": "pytest_longctx.deployments.capacity:Prediction",
    "Prompt": "pytest_longctx.prompts:Prompt",
    "PromptFactory": "pytest_longctx.prompts:PromptFactory",
    "Results": "pytest_longctx.reports.results:Results",
    "Server": "pytest_longctx.client.server:Server",
    "Verdict": "pytest_longctx.findings.verdicts:Verdict",
    "ask": "pytest_longctx.client.request:ask",
    "boot": "pytest_longctx.launchers.boot:boot",
    "compare": "pytest_longctx.reports.compare:compare",
    "diagnose": "pytest_longctx.backends.logs:diagnose",
    "judge": "pytest_longctx.findings.verdicts:judge",
    "load_deployments": "pytest_longctx.deployments.deployment:load_deployments",
    "load_findings": "pytest_longctx.findings.finding:load_findings",
    "predict": "pytest_longctx.plan:predict_deployment",
    "read_log": "pytest_longctx.backends.logs:read_log",
    "read_results": "pytest_longctx.reports.results:read",
    "tokens": "pytest_longctx.prompts.factory:tokens",
}
"""The module of each name in `__all__`. The plugin's start-up imports none of them."""


def __dir__() -> list[str]:
    return list(__all__)


if not TYPE_CHECKING:  # with it, a type checker would accept every name

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, made = _PLACES[name].partition(":")
        return getattr(import_module(module), made)
