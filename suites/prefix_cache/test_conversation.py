"""Are the earlier turns of a conversation served from the prefix cache?"""

import pytest

from pytest_longctx.client.exchange import same_answer
from pytest_longctx.findings.aggregate import conversation


@pytest.mark.judges("turns")
def test_conversation_is_remembered(finding, server, prompt, ask, judge):
    """If this fails, every turn computes the whole conversation again, or the last is answered otherwise than without a cache."""
    asked = finding.ask
    turns = tuple(prompt.turns(asked.prompt_tokens, asked.output_tokens, asked.turn_tokens, asked.turns))
    warm = [ask(turn, asked.output_tokens, traced=True) for turn in turns]
    seen = conversation([each.observe() for each in warm])
    if server.backend.salted:
        cold = ask(turns[-1], asked.output_tokens, traced=True, salt="cold")
        seen = same_answer(seen, cold, warm[-1])
    verdict = judge(seen)
    assert verdict
