"""Does a configuration that cannot work fail, for the documented reason and with the documented sizes?"""

import pytest


@pytest.mark.judges("boot-fails")
def test_boot_fails_as_documented(boot, judge):
    """If this fails, an expected failure has gone, or has another cause or size: the finding has changed."""
    verdict = judge(boot.observe())
    assert verdict
