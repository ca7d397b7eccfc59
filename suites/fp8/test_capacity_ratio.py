"""Does a KV cache with half the bytes for each value hold twice the tokens?"""

import pytest

from pytest_longctx.launchers.boot import ratio, waits_for


@pytest.mark.judges("ratio")
def test_capacity_follows_the_bytes_of_a_value(request, finding, boot, longctx_session, judge):
    """If this fails, the capacities of two deployments that differ in one flag no longer differ by the documented factor."""
    booted = longctx_session.booted
    if waits := waits_for(finding, booted):
        longctx_session.skip_out_of_scope(request.node, finding, waits, boot)
    verdict = judge(ratio(finding, booted))
    assert verdict
