"""The shipped parts by name. A run imports only the parts that it uses."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, NamedTuple


class DeviceMake(NamedTuple):
    """
    A make of accelerators: the prefix of its hardware names, the class that samples its devices, and the needs of that
    class.
    """

    begins: str
    source: str
    needs: str


DEVICES: Final = (
    DeviceMake("MI", "pytest_longctx.devices.amd:AmdSmi", "amd-smi or rocm-smi on the path"),
    DeviceMake("trn", "pytest_longctx.devices.neuron:NeuronMonitor", "neuron-monitor on the path"),
    DeviceMake("", "pytest_longctx.devices.nvidia:Nvml", "pip install 'pytest-longctx[nvidia]'"),
)
"""Device makes by name. Hardware names without a known prefix are NVIDIA's."""


# Given as text, so that a run imports only the class it uses.
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


# External measuring tools, by their adapters.
LOADS: Mapping[str, str] = MappingProxyType(
    {
        "vllm-bench": "pytest_longctx.client.adapters.vllm_bench:VllmBench",
        "guidellm": "pytest_longctx.client.adapters.guidellm:GuideLLM",
        "aiperf": "pytest_longctx.client.adapters.aiperf:AIPerf",
    }
)


EVALUATIONS: Mapping[str, str] = MappingProxyType({"lm-eval": "pytest_longctx.client.adapters.lm_eval:LmEval"})


def load(place: str) -> Any:
    """Return the registered class at ``module:Class``, after its import."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
