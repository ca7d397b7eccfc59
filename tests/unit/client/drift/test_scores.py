"""Scores as the servers write them."""

import json

import numpy as np
import pytest

from pytest_longctx.client.drift.scores import TOP_TOKENS, UnscoredError, of_sglang, of_vllm
from pytest_longctx.miniatures import scoring

IDS = [7, 1234, 22, 22, 29_999, 5]
SENT = np.array(IDS, dtype=np.uint32)
EXACT = scoring.Predictor(noise=0.0)


def vllm(**body):
    return scoring.vllm_page(EXACT, {"prompt": IDS, "prompt_logprobs": TOP_TOKENS, **body})


def sglang(**body):
    return scoring.sglang_page(EXACT, {"input_ids": IDS, "top_logprobs_num": TOP_TOKENS, **body})


def test_both_forms_give_the_same_scores():
    one, other = of_vllm(json.dumps(vllm()).encode(), SENT), of_sglang(json.dumps(sglang()).encode(), SENT)
    assert one.positions == other.positions == len(IDS) - 1
    for name in ("ids", "logprobs", "said_ids", "said"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    predicted = EXACT.predictions(IDS)
    assert one.said_ids.tolist() == IDS[1:]
    assert one.argmax.tolist() == [max(known, key=lambda name: known[name]) for known in predicted]
    assert one.said == pytest.approx([known[token] for known, token in zip(predicted, IDS[1:], strict=True)], rel=1e-6)
    assert (np.diff(one.logprobs, axis=1) <= 0).all()


def changed(page, change):
    change(page)
    return json.dumps(page).encode()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda page: page["choices"].clear(), "no choices.0.prompt_logprobs"),
        (lambda page: page["choices"][0].update(prompt_logprobs=None), "of no tokens; 6 tokens were sent"),
        (lambda page: page["choices"][0]["prompt_logprobs"].pop(), "of 5 tokens; 6 tokens were sent"),
        (lambda page: page["choices"][0]["prompt_logprobs"][2].pop("22"), "position 2 has 20 log-probabilities"),
        (
            lambda page: [each.update(logprob=-0.5) for each in page["choices"][0]["prompt_logprobs"][1].values()],
            "sum to",
        ),
    ],
)
def test_an_answer_without_the_scores_says_what_it_lacks(change, why):
    with pytest.raises(UnscoredError, match=why):
        of_vllm(changed(vllm(), change), SENT)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda page: page.pop("meta_info"), "no meta_info"),
        (lambda page: page["meta_info"].update(input_top_logprobs=None), "of no tokens"),
        (
            lambda page: page["meta_info"]["input_token_logprobs"][1].__setitem__(1, 9),
            "scores token 9 where 1234 was sent",
        ),
    ],
)
def test_an_answer_of_sglang_says_what_it_lacks(change, why):
    with pytest.raises(UnscoredError, match=why):
        of_sglang(changed(sglang(), change), SENT)


def test_log_probabilities_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        of_vllm(json.dumps(vllm()).replace('"logprob": -', '"logprob": NaN, "n": -', 1).encode(), SENT)
