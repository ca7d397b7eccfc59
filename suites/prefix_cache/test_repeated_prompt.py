"""What does the server report for a prompt that it has just read?"""

import pytest

from pytest_longctx.client.exchange import again


@pytest.mark.judges("repeated")
def test_repeated_prompt(finding, prompt, ask, judge):
    """If this fails, cached tokens are not reported, the cache does not work, or the warm answer differs from the cold one."""
    same = prompt(finding.ask.prompt_tokens)
    first = ask(same, finding.ask.output_tokens, traced=True)
    verdict = judge(again(first, ask(same, finding.ask.output_tokens, traced=True)))
    assert verdict
