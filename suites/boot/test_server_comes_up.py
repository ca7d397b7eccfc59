"""Does the server start, and with the documented capacity?"""

import pytest


@pytest.mark.judges("boots")
def test_server_comes_up(boot, judge):
    """If this fails, a configuration that worked no longer does, or has less capacity."""
    verdict = judge(boot.observe())
    assert verdict
