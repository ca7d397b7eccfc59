"""The same prompt in changing company, compared to the last bit."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.backends.miniature import Miniature, MiniatureSglang
from pytest_longctx.client import repeatability
from pytest_longctx.client.answer_tokens import Token
from pytest_longctx.client.repeatability import Answer, Answers, compare, mismatched
from pytest_longctx.errors import ResultsError
from pytest_longctx.findings.ask import Ask
from pytest_longctx.miniatures.request_faults import DependsOnCompany, ScoredAnswers
from pytest_longctx.miniatures.server import Honest
from pytest_longctx.processes.progress import no_progress
from tests.unit.fake_engine import prompts, serving

WAYS = [
    *("alone", "alone again", "in a batch of 8", "in a batch of 50"),
    *("after a hit of the whole prompt", "after a hit of its first half"),
]


def asked(mind, backend=None):
    with serving(mind, backend or Miniature()) as server:
        return repeatability.ask(server, prompts(), Ask(prompt_tokens=100, output_tokens=6), no_progress, natural=False)


@pytest.mark.parametrize("backend", [Miniature(), MiniatureSglang()], ids=["salted", "by resets"])
def test_a_correct_server_repeats_to_the_last_bit(backend, monkeypatch):
    monkeypatch.setattr(MiniatureSglang, "salted", False)
    monkeypatch.setattr(MiniatureSglang, "reset_path", Miniature.reset_path)
    answers = asked(ScoredAnswers(), backend)
    assert [each.how for each in answers.each] == WAYS
    seen = compare(answers)
    assert seen.outcome == "serves"
    assert seen.metrics["answers_compared"] == 5
    assert (
        seen.metrics["answers_differing"] == seen.metrics["logprobs_differing"] == seen.metrics["repeat_gap_nats"] == 0
    )
    assert seen.metrics["first_differing_token"] is None
    assert seen.said == ""


class HalfCached(ScoredAnswers):
    """Says in usage what it has of a prompt: all of a repeated one."""

    def usage(self, request):
        return {**super().usage(request), "prompt_tokens_details": {"cached_tokens": self.cached(request)}}


def test_hits_are_counted_by_usage():
    """The miniature knows whole prompts only, so that a shared half is no hit."""
    assert compare(asked(HalfCached())).metrics["hits_taken"] == 1


def test_an_answer_that_depends_on_company_is_named_with_its_first_token():
    seen = compare(asked(DependsOnCompany()))
    assert seen.metrics["answers_differing"] == seen.metrics["logprobs_differing"] == 2
    assert (seen.metrics["first_differing_token"], seen.metrics["first_differing_logprob"]) == (3, 0)
    assert seen.metrics["repeat_gap_nats"] == 0.25
    assert seen.said.startswith(
        "in a batch of 8: token 3 is 'token_id:110' instead of 'token_id:10'; log-probabilities from token 0 on"
    )


def test_a_server_without_log_probabilities_is_not_measured():
    seen = compare(asked(Honest()))
    assert seen.outcome is None
    assert "returned no log-probabilities" in seen.said


def answers(*changed, prompt="p"):
    first = tuple(Token(f"t{i}", -1.0, -2.0) for i in range(5))
    rest = (Answer(how, tokens, cached_tokens=0) for how, tokens in changed)
    return Answers(prompt, (Answer("alone", first), Answer("alone again", first), *rest), {"deployment": "other"})


def test_another_server_with_other_chunks_counts_as_one_more_answer():
    mine, theirs = answers(), answers()
    assert compare(mine, theirs).metrics["answers_compared"] == 2
    moved = Answers(
        "p", (Answer("alone", (*theirs.each[0].tokens[:4], Token("x", -1.0))),), {"deployment": "small-chunks"}
    )
    seen = compare(mine, moved)
    assert seen.metrics["answers_differing"] == 1
    assert seen.said == "alone on small-chunks: token 4 is 'x' instead of 't4'"
    with pytest.raises(ResultsError, match="answered different prompts"):
        compare(mine, answers(prompt="q"))


def test_one_bit_of_a_runner_up_is_seen():
    tokens = [Token("a", -1.0, -2.0), Token("b", -1.0, -3.0)]
    other = [tokens[0], Token("b", -1.0, -3.0000002)]
    found = mismatched(tokens, other)
    assert (found.token, found.logprob_at) == (None, 1)
    assert found.gap_nats == pytest.approx(2e-7)


tokens = st.lists(st.builds(Token, st.sampled_from("ab"), st.floats(-9, 0), st.floats(-9, 0)), max_size=6)


@given(tokens, tokens)
def test_it_is_symmetric_and_equal_only_for_equal_answers(one, other):
    found, back = mismatched(one, other), mismatched(other, one)
    assert (found.token, found.logprob_at, found.gap_nats) == (back.token, back.logprob_at, back.gap_nats)
    assert (found.token is None and found.logprob_at is None) == (one == other)


def test_answers_are_written_and_read(tmp_path):
    path = repeatability.path_of(tmp_path / "repeatable", "tiny", Ask(prompt_tokens=9))
    kept = answers(("hit", (Token("x", None, None),)))
    repeatability.save(kept, path)
    assert repeatability.load(path) == kept
    for broken in ("", "[]", "{}", json.dumps({"form": 1, "prompt": "p", "each": [], "facts": {}}), '{"form": 2'):
        path.write_text(broken)
        with pytest.raises(ResultsError, match="must be a file of answers"):
            repeatability.load(path)
