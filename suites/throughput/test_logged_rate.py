"""Is the throughput in the server's log a rate?"""

import pytest


@pytest.mark.judges("logged-rate")
def test_logged_rate(finding, prompt, logged_rate, judge):
    """If this fails, the log's figure has come to mean something else, and what we say of it is out of date."""
    verdict = judge(logged_rate(prompt(finding.ask.prompt_tokens), finding.ask.output_tokens))
    assert verdict
