"""Any server that speaks the OpenAI completions API, of which only the URL is known."""

from types import MappingProxyType

from pytest_longctx.backends import Backend


class OpenAI(Backend):
    """A server that somebody else runs. No log, no counters: what they would prove is left unmeasured."""

    name = "openai"
    launches = False
    # /v1/models is all that every such server has.
    health = "/v1/models"
    version_path = None
    body = MappingProxyType({})
