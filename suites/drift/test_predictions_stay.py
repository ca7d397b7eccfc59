"""How far do the predictions of a model move with a KV-cache dtype, a backend, an offload or a version?"""

import pytest

from pytest_longctx.observation import Observation


@pytest.mark.judges("drift")
def test_predictions_stay_as_documented(request, finding, boot, drift, longctx_session, judge):
    """If this fails, the predictions of the same weights moved by more than documented, or by less, beyond the engine's noise."""
    found = drift(finding)
    if not isinstance(found, Observation):
        longctx_session.skip_out_of_scope(request.node, finding, found, boot)
    verdict = judge(found)
    assert verdict
