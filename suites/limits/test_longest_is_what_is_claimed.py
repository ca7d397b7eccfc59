"""What is the longest prompt that is actually served?"""

from dataclasses import replace

import pytest

from pytest_longctx.client.longest_context import Try, found, longest
from pytest_longctx.observation import Observation


@pytest.mark.judges("longest")
def test_longest_is_what_is_claimed(finding, server, prompt, ask, judge):
    """If this fails, the server lists a context that it does not serve, or serves another length than documented."""
    output_tokens = finding.ask.output_tokens
    claimed = finding.ask.prompt_length(server.max_model_len)
    seen = None

    def attempt(tokens):
        nonlocal seen
        seen = ask(prompt(tokens), output_tokens).observe()
        return Try(tokens, {"serves": True, "refuses": False}.get(seen.outcome), seen.said)

    tries = longest(1, claimed, attempt)
    served = found(tries)
    metrics = {
        "longest_served_tokens": served,
        "claim_shortfall_tokens": None if served is None else claimed - served,
        "tries": len(tries),
    }
    whole = served is not None and tries[-1].worked is not None
    # The exchange that ended the search is reported completely. Its health result avoids a wait for the server's exit.
    evidence = Observation("serves") if whole else seen
    verdict = judge(replace(evidence, metrics={**evidence.metrics, **metrics}, said=tries[0].said or seen.said))
    assert verdict
