"""The backends and launchers that come with the package, offered through the same hooks as anybody else's."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_longctx.backends import Backend
    from pytest_longctx.launchers import Launcher

# By name, so that a run imports only the one it uses.
BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "vllm": "pytest_longctx.backends.vllm:Vllm",
        "vllm-cpu": "pytest_longctx.backends.vllm:VllmCpu",
        "vllm-rocm": "pytest_longctx.backends.vllm:VllmRocm",
        "vllm-neuron": "pytest_longctx.backends.vllm:VllmNeuron",
        "sglang": "pytest_longctx.backends.sglang:Sglang",
        "transformers": "pytest_longctx.backends.transformers:Transformers",
        "openai": "pytest_longctx.backends.openai:OpenAI",
        "miniature": "pytest_longctx.backends.miniature:Miniature",
        "miniature-sglang": "pytest_longctx.backends.miniature:MiniatureSglang",
    }
)
LAUNCHERS: Mapping[str, str] = MappingProxyType(
    {
        "process": "pytest_longctx.launchers.process:ProcessLauncher",
        "docker": "pytest_longctx.launchers.docker:DockerLauncher",
        "kubernetes": "pytest_longctx.launchers.kubernetes:KubernetesLauncher",
        "url": "pytest_longctx.launchers.url:UrlLauncher",
    }
)
# Tools that measure in our stead, by their adapters.
LOADS: Mapping[str, str] = MappingProxyType(
    {
        "vllm-bench": "pytest_longctx.client.adapters.vllm_bench:VllmBench",
        "guidellm": "pytest_longctx.client.adapters.guidellm:GuideLLM",
        "aiperf": "pytest_longctx.client.adapters.aiperf:AIPerf",
    }
)
EVALUATIONS: Mapping[str, str] = MappingProxyType({"lm-eval": "pytest_longctx.client.adapters.lm_eval:LmEval"})


def load(place: str) -> Any:
    """The class at ``module:Class``."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


@pytest.hookimpl(trylast=True)
def pytest_longctx_make_backend(name: str) -> "Backend | None":
    """One of ours."""
    made: Backend | None = load(BACKENDS[name])() if name in BACKENDS else None
    return made


@pytest.hookimpl(trylast=True)
def pytest_longctx_make_launcher(kind: str, what: str) -> "Launcher | None":
    """One of ours."""
    made: Launcher | None = load(LAUNCHERS[kind])(what) if kind in LAUNCHERS else None
    return made


def pytest_longctx_names(what: str) -> list[str]:
    """The names of ours."""
    return sorted(BACKENDS if what == "backend" else LAUNCHERS)
