"""Backend for a model that transformers loads directly: one ``generate`` at a time, no scheduler, no paged cache."""

from types import MappingProxyType

from pytest_longctx.backends import Backend
from pytest_longctx.backends.transformers import serve
from pytest_longctx.deployments.deployment import Deployment


class Transformers(Backend):
    """
    A model loaded by transformers, served at the endpoints that other backends have.

    ``transformers serve`` (5.19) cannot be judged: it accepts no token ids, ends its streams without ``[DONE]`` and has
    no limit.
    """

    name = "transformers"
    package = "transformers"
    distributions = ("transformers",)
    install = ("transformers>=5,<6", "torch", "accelerate")
    host_flag = "--host"
    key_variable = "LONGCTX_SERVER_KEY"
    body = MappingProxyType({"ignore_eos": True})
    names_cached_if_any = True  # each request has a cache of its own, and usage reports it

    def argv(self, deployment: Deployment, python: str, model: str, port: int) -> tuple[str, ...]:
        limit = () if deployment.max_model_len is None else ("--max-model-len", str(deployment.max_model_len))
        return (
            *(python, "-I", serve.__file__, "--port", str(port)),
            *("--model", model, "--served-model-name", deployment.model.name),
            *limit,
            *deployment.arguments(),
        )
