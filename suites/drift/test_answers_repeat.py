"""Is the answer to a prompt bit-identical alone, beside other requests, in other chunks and after hits of the cache?"""

import pytest

from pytest_longctx.observation import Observation


@pytest.mark.judges("repeatable")
def test_answers_repeat_as_documented(request, finding, boot, repeatable, longctx_session, judge):
    """If this fails, an answer depends on the company of its request or on the cache; the first token that differs is named."""
    found = repeatable(finding)
    if not isinstance(found, Observation):
        longctx_session.skip_out_of_scope(request.node, finding, found, boot)
    verdict = judge(found)
    assert verdict
