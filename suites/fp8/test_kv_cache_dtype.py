"""What does a KV-cache dtype come to: is it refused, does it die at its first forward pass, does it fall back, does it serve?"""

import pytest

from pytest_longctx.findings import retrieval
from pytest_longctx.probe import grading


@pytest.mark.judges("kv-dtype")
def test_dtype_does_what_is_documented(request, finding, boot, prompt, judge):
    """If this fails, a dtype has another outcome than documented, or keeps more or less of a key than its name says."""
    if boot.server is None:
        verdict = judge(boot.observe())
    else:
        ask = request.getfixturevalue("ask")  # there is nobody to ask where the boot failed
        rungs = grading.plant(prompt(finding.ask.prompt_length(boot.server.max_model_len)))
        exchange = ask(rungs.prompt, rungs.output_tokens)
        verdict = judge(boot.beside(retrieval.measured(boot.weigh(exchange), grading.ladder_text(exchange.text))))
    assert verdict
