"""Are many concurrent requests all answered, all counted, and as fast as documented?"""

import pytest

from pytest_longctx.client.load import observe


@pytest.mark.judges("load")
def test_load_is_carried(finding, load, judge):
    """If this fails, the server drops, starves or miscounts requests under a load that it handled before, or is slower."""
    asked = finding.ask
    pace = {"rate_per_s": asked.rate_per_s, "arrivals": asked.arrivals, "concurrency": asked.concurrency}
    carried = load(asked.prompt_tokens, asked.output_tokens, requests=asked.requests, **pace)
    verdict = judge(observe(carried, goal_ttft_s=asked.goal_ttft_s, goal_tpot_s=asked.goal_tpot_s))
    assert verdict
