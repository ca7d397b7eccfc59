"""Does a server stop reading a prompt that nobody waits for any more?"""

import pytest


@pytest.mark.judges("disconnect")
def test_abandoned_prompt(finding, disconnect, judge):
    """If this fails, one impatient client keeps the server busy for everybody, or ends it."""
    verdict = judge(disconnect(finding.ask.prompt_tokens))
    assert verdict
