"""What is the effect of a KV-cache dtype: refusal, crash in the first forward pass, fallback, or normal service?"""

import pytest

from pytest_longctx.findings import retrieval
from pytest_longctx.probe import grading


@pytest.mark.judges("kv-dtype")
def test_dtype_does_what_is_documented(request, finding, boot, prompt, judge):
    """
    If this fails, a dtype has another outcome than documented, or preserves more or fewer bits of a key than its name
    implies.
    """
    if boot.server is None:
        verdict = judge(boot.observe())
    else:
        ask = request.getfixturevalue("ask")  # after a failed boot there is no server to send the request to
        rungs = grading.plant(prompt(finding.ask.prompt_length(boot.server.max_model_len)))
        exchange = ask(rungs.prompt, rungs.output_tokens)
        verdict = judge(boot.beside(retrieval.measured(boot.weigh(exchange), grading.ladder_text(exchange.text))))
    assert verdict
