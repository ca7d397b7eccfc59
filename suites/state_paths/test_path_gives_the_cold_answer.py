"""Is the answer the same, however the KV cache of its prompt came about?"""

import pytest


@pytest.mark.judges("path")
def test_path_gives_the_cold_answer(finding, state_path, judge):
    """If this fails, a cache path changes answers without an error, or a cache that the server claims never answers."""
    verdict = judge(state_path(finding.ask))
    assert verdict
