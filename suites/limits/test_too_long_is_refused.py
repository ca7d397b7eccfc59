"""Is a request that does not fit refused, at once and in words?"""

import pytest


@pytest.mark.judges("over-limit")
def test_too_long_is_refused(finding, server, prompt, ask, judge):
    """If this fails, the server takes a request it cannot hold: it truncates, hangs or dies later."""
    length = finding.ask.prompt_length(server.max_model_len)
    too_long = prompt.text(length, over=True) if finding.ask.as_text else prompt(length)
    verdict = judge(ask(too_long, finding.ask.output_tokens))
    assert verdict
