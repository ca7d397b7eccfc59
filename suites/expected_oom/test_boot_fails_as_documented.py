"""Does an unworkable configuration fail for the documented reason and with the documented sizes?"""

import pytest


@pytest.mark.judges("boot-fails")
def test_boot_fails_as_documented(boot, judge):
    """If this fails, an expected failure no longer occurs, or has another cause or size."""
    verdict = judge(boot.observe())
    assert verdict
