"""Is a cache that was emptied empty?"""

import pytest


@pytest.mark.judges("reset")
def test_emptied_cache(finding, prompt, reset, judge):
    """If this fails, a measurement after a reset may be of the cache it was to be rid of."""
    verdict = judge(reset(prompt(finding.ask.prompt_tokens), finding.ask.output_tokens))
    assert verdict
