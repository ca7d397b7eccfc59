"""Are the earlier turns of a conversation served from the prefix cache?"""

import pytest

from pytest_longctx.findings.aggregate import conversation


@pytest.mark.judges("turns")
def test_conversation_is_remembered(finding, prompt, ask, judge):
    """If this fails, every turn recomputes the whole conversation, so that the time grows with the square of its length."""
    asked = finding.ask
    turns = prompt.turns(asked.prompt_tokens, asked.output_tokens, asked.turn_tokens, asked.turns)
    verdict = judge(conversation([ask(turn, asked.output_tokens).observe() for turn in turns]))
    assert verdict
