"""Could this start have worked at all?"""

import pytest

from pytest_longctx import lints


@pytest.mark.judges("linted")
def test_deployment_is_sound(finding, judge):
    """If this fails, a mistake that once cost an afternoon would pass unnoticed again."""
    verdict = judge(lints.observe(finding.ask, finding.expect.signature))
    assert verdict
