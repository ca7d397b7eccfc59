"""How does the time to first token grow with the length of the prompt?"""

import pytest

from pytest_longctx.findings.aggregate import length_sweep, summary


@pytest.mark.judges("ladder")
def test_time_follows_the_law(finding, boot, prompt, ask, judge):
    """If this fails, prefill is slower than documented, or its time grows faster with the length."""
    asked = finding.ask
    for _ in range(asked.warm_up):
        ask(prompt(asked.lengths[0]), asked.output_tokens)
    points = []
    for length in asked.lengths:
        readings = [boot.weigh(ask(prompt(length), asked.output_tokens)) for _ in range(asked.runs)]
        points.append(summary(readings))
        if points[-1].outcome != "serves":
            break
    verdict = judge(length_sweep(points))
    assert verdict
