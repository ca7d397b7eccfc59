"""Is a published figure consistent with arithmetic?"""

import pytest

from pytest_longctx.findings.claims import observe


@pytest.mark.judges("claimed")
def test_claim_adds_up(finding, judge):
    """If this fails, the documented assessment of a published figure differs from the arithmetic."""
    verdict = judge(observe(finding.claim))
    assert verdict
