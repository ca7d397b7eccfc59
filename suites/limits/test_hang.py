"""Is a request that may exceed the KV cache answered or refused, and does the server survive it?"""

import pytest

from pytest_longctx.client import recovery


@pytest.mark.judges("over-pool")
def test_server_gets_over_it(finding, boot, server, prompt, ask, judge):
    """If this fails, an accepted request hangs, or crashes the server."""
    length = finding.ask.prompt_length(server.max_model_len)
    seen = boot.weigh(ask(prompt(length), finding.ask.output_tokens))
    canary = ask(prompt(recovery.CANARY_TOKENS), 1, deadline_s=server.deployment.timeouts.canary_s)
    verdict = judge(recovery.after(seen, canary))
    assert verdict
