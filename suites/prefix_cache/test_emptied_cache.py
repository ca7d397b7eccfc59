"""Is the prefix cache empty after a reset?"""

import pytest


@pytest.mark.judges("reset")
def test_emptied_cache(finding, prompt, reset, judge):
    """If this fails, a measurement after a reset can be served from the old cache."""
    verdict = judge(reset(prompt(finding.ask.prompt_tokens), finding.ask.output_tokens))
    assert verdict
