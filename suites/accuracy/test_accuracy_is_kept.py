"""Are known questions answered as well as documented?"""

import pytest


@pytest.mark.judges("accuracy")
def test_accuracy_is_kept(finding, accuracy, judge):
    """If this fails, a quantisation, a kernel or an upgrade has made the answers worse, though they come as fast as ever."""
    verdict = judge(accuracy(finding.ask))
    assert verdict
