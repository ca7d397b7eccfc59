"""SGLang's dialect: a miniature with SGLang's observed messages satisfies every law."""

import pytest

from pytest_longctx.backends.miniature import MiniatureSglang
from pytest_longctx.client.request import ask
from pytest_longctx.miniatures.server import Request
from pytest_longctx.miniatures.sglang import Sglang
from tests.unit.fake_engine import prompts, serving

MOST = 131_072


def test_an_honest_server_keeps_every_law_in_its_dialect(run):
    done = run(
        "--backend=miniature-sglang",
        "-m",
        "not one_million and not two_million and not five_million and not ten_million",
    )
    rows = {row["finding"]: row for row in done.results.verdicts}
    assert {row["verdict"] for row in rows.values()} == {"holds"}
    assert {
        "LC-0001",
        "LC-0021",
        "LC-0022",
        "LC-0030",
        "LC-0031",
        "LC-0040",
        "LC-0041",
        "LC-0050",
        "MN-0041",
    } <= rows.keys()
    assert done.outcome.ret == 0


@pytest.mark.parametrize(
    ("tokens", "answer", "signature"), [(140_000, 16, "prompt-too-long"), (130_500, 1000, "prompt-and-answer-too-long")]
)
def test_a_refusal_is_the_one_that_was_recorded(tokens, answer, signature):
    (entry,) = (each for each in MiniatureSglang().catalogue.refusal if each.id == signature)
    message = Sglang(max_model_len=MOST).complaint(Request(tokens, "", answer, stream=True))
    assert message is not None
    assert message.startswith(entry.example)
    with serving(Sglang(max_model_len=MOST), MiniatureSglang()) as server:
        seen = ask(server, prompts()(tokens), answer).observe()
    assert (seen.outcome, seen.metrics["refusal_status"]) == ("refuses", 400)
    assert entry.example in seen.said


def test_an_answer_at_the_limit_is_short_and_counted_as_such():
    """SG-0025: six of eight."""
    with serving(Sglang(max_model_len=10_000), MiniatureSglang()) as server:
        seen = ask(server, prompts()(9_992), 8).observe()
    assert (seen.outcome, seen.metrics["completion_tokens"]) == ("serves", 6)
