"""Is a prompt of this length served, and counted exactly?"""

import pytest


@pytest.mark.judges("served")
def test_length_is_served(finding, server, prompt, ask, judge):
    """If this fails, a context length that was found to be served is not, or is slower than documented."""
    length = finding.ask.prompt_length(server.max_model_len)
    verdict = judge(ask(prompt(length), finding.ask.output_tokens))
    assert verdict
