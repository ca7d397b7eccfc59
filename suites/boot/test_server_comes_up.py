"""Does the server come up, and with the capacity that was documented?"""

import pytest


@pytest.mark.judges("boots")
def test_server_comes_up(boot, judge):
    """If this fails, a configuration that was found to work no longer does, or holds less."""
    verdict = judge(boot.observe())
    assert verdict
