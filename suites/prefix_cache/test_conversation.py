"""Does a conversation's next turn come from the cache of the turns before it?"""

import pytest

from pytest_longctx.findings.aggregate import conversation


@pytest.mark.judges("turns")
def test_conversation_is_remembered(finding, prompt, ask, judge):
    """If this fails, every turn reads the whole conversation again: long ones slow down with the square of their length."""
    asked = finding.ask
    turns = prompt.turns(asked.prompt_tokens, asked.output_tokens, asked.turn_tokens, asked.turns)
    verdict = judge(conversation([ask(turn, asked.output_tokens).observe() for turn in turns]))
    assert verdict
