"""Is the throughput in the server's log a rate?"""

import pytest


@pytest.mark.judges("logged-rate")
def test_logged_rate(finding, prompt, logged_rate, judge):
    """If this fails, the meaning of the logged figure has changed, and its documented interpretation is outdated."""
    verdict = judge(logged_rate(prompt(finding.ask.prompt_tokens), finding.ask.output_tokens))
    assert verdict
