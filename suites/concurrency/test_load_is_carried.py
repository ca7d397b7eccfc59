"""Are many requests at once all answered, all counted, and as fast as documented?"""

import pytest

from pytest_longctx.load import observe


@pytest.mark.judges("load")
def test_load_is_carried(finding, load, judge):
    """If this fails, a server that was found to carry a load drops, starves or miscounts requests, or is slower."""
    asked = finding.ask
    carried = load(asked.prompt_tokens, asked.output_tokens, requests=asked.requests, concurrency=asked.concurrency)
    verdict = judge(observe(carried))
    assert verdict
