"""What does an endpoint really serve? The checks of ``longctx certify``, one test each, and claims judged by them."""

import pytest

from pytest_longctx.certificate.results import checks


@pytest.mark.certificate
@pytest.mark.parametrize("check", list(checks()))
def test_check_holds(certificate, check):
    """If this fails, the endpoint breaks what the check asserts."""
    result = next(each for each in certificate.results if each.check == check)
    if result.word == "unmeasured":
        pytest.skip("\n".join(result.lines()))
    assert result.word == "holds", "\n".join(result.lines())


@pytest.mark.judges("certified")
def test_claim_is_kept(certificate, judge):
    """If this fails, a published figure of the endpoint differs from what its certificate measured."""
    verdict = judge(certificate.observe())
    assert verdict
