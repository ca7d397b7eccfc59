"""Could this start have worked at all?"""

import pytest

from pytest_longctx.launchers import lint


@pytest.mark.judges("linted")
def test_deployment_is_sound(finding, judge):
    """If this fails, a mistake that once cost an afternoon would pass unnoticed again."""
    verdict = judge(lint.observe(finding.ask, finding.expect.signature))
    assert verdict
