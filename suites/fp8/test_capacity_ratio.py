"""Does a KV cache of half the bytes for each value hold twice the tokens?"""

import pytest


@pytest.mark.judges("ratio")
def test_capacity_follows_the_bytes_of_a_value(request, finding, boot, longctx_session, judge):
    """If this fails, two deployments that differ in one flag no longer differ by the documented factor in what they hold."""
    verdict = judge(longctx_session.both(request.node, finding, boot))
    assert verdict
