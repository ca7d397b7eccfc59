"""Backends for the built-in miniature servers, `pytest_longctx.miniatures`: no GPU, no model, instant boot."""

from pytest_longctx.backends import Backend
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.deployments.deployment import Deployment


class Miniature(Backend):
    """A server with vLLM's API that is correct, or has the one fault that its deployment names."""

    name = "miniature"
    shares_machine = True
    host_flag = "--host"
    key_variable = Vllm.key_variable
    dies_unhealthy = Vllm.dies_unhealthy
    metrics = Vllm.metrics
    reset_path = Vllm.reset_path
    salted = Vllm.salted
    scoring = Vllm.scoring
    failures = "vllm"

    def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
        return (
            *(python, "-m", "pytest_longctx.miniatures"),
            *("--port", str(port), "--served-model-name", deployment.model.name),
            *("--max-model-len", str(deployment.max_model_len)),
            *deployment.arguments(),
        )


class MiniatureSglang(Miniature):
    """A correct server with SGLang's API."""

    name = "miniature-sglang"
    dies_unhealthy = Sglang.dies_unhealthy
    version_path = Sglang.version_path
    names_cached_if_any = Sglang.names_cached_if_any
    metrics = Sglang.metrics
    reset_path = Sglang.reset_path
    scoring = Sglang.scoring
    failures = "sglang"
