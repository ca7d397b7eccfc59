"""What does the server report for a prompt that it has just read?"""

import pytest

from pytest_longctx.client.exchange import again


@pytest.mark.judges("repeated")
def test_repeated_prompt(finding, prompt, ask, judge):
    """If this fails, a cache hit can be mistaken for speed: cached tokens are not reported, or the cache does not work."""
    same = prompt(finding.ask.prompt_tokens)
    first = ask(same, finding.ask.output_tokens)
    verdict = judge(again(first, ask(same, finding.ask.output_tokens)))
    assert verdict
