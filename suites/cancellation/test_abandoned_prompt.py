"""Does the server stop reading a prompt after its client has disconnected?"""

import pytest


@pytest.mark.judges("disconnect")
def test_abandoned_prompt(finding, disconnect, judge):
    """If this fails, one disconnected client keeps the server busy for all others, or crashes it."""
    verdict = judge(disconnect(finding.ask.prompt_tokens))
    assert verdict
