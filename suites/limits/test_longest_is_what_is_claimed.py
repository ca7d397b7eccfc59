"""What is the longest prompt that is really served?"""

import pytest

from pytest_longctx.observation import Observation
from pytest_longctx.search import Try, found, longest


@pytest.mark.judges("longest")
def test_longest_is_what_is_claimed(finding, server, prompt, ask, judge):
    """If this fails, the server lists a context that it does not serve, or serves another than was found."""
    output_tokens = finding.ask.output_tokens
    claimed = finding.ask.prompt_length(server.max_model_len)

    def attempt(tokens):
        exchange = ask(prompt(tokens), output_tokens)
        seen = exchange.observe()
        if seen.outcome in ("serves", "refuses"):
            return Try(tokens, exchange.ending == "complete", seen.said)
        pytest.fail(f"a prompt of {tokens:,} tokens: {seen.outcome}: {seen.said}", pytrace=False)

    tries = longest(1, claimed, attempt)
    served = found(tries)
    metrics = {
        "longest_served_tokens": served,
        "claim_shortfall_tokens": None if served is None else claimed - served,
        "tries": len(tries),
    }
    verdict = judge(Observation("serves" if served else "refuses", metrics, said=tries[0].said))
    assert verdict
