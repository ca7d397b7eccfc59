"""Can the documented start command work at all?"""

import pytest

from pytest_longctx.launchers import lint


@pytest.mark.judges("linted")
def test_deployment_is_sound(finding, judge):
    """If this fails, a known configuration mistake is no longer detected."""
    verdict = judge(lint.observe(finding.ask, finding.expect.signature))
    assert verdict
