"""Can a published figure be true at all?"""

import pytest

from pytest_longctx.findings.claims import observe


@pytest.mark.judges("claimed")
def test_claim_adds_up(finding, judge):
    """If this fails, what we say of a published figure is not what the arithmetic says."""
    verdict = judge(observe(finding.claim))
    assert verdict
