"""Backend for any server with the OpenAI completions API, if only its URL is known."""

from types import MappingProxyType

from pytest_longctx.backends import Backend


class OpenAI(Backend):
    """A server that this run does not start. Its log and counters are unknown, so checks that need them are unmeasured."""

    name = "openai"
    launches = False
    # /v1/models is the only other endpoint that every such server has.
    health = "/v1/models"
    version_path = None
    body = MappingProxyType({})
