"""Is a request that does not fit refused immediately and with a message?"""

import pytest


@pytest.mark.judges("over-limit")
def test_too_long_is_refused(finding, server, prompt, ask, judge):
    """If this fails, the server accepts a request that exceeds its limit: it truncates, hangs or crashes later."""
    length = finding.ask.prompt_length(server.max_model_len)
    too_long = prompt.text(length, over=True) if finding.ask.as_text else prompt(length)
    verdict = judge(ask(too_long, finding.ask.output_tokens))
    assert verdict
