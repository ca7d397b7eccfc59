"""Are known questions answered as accurately as documented?"""

import pytest


@pytest.mark.judges("accuracy")
def test_accuracy_is_kept(finding, accuracy, judge):
    """If this fails, a quantisation, a kernel or an upgrade has reduced the accuracy of the answers, even at the same speed."""
    verdict = judge(accuracy(finding.ask))
    assert verdict
