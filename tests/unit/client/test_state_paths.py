"""Paths of a KV cache: prompts with common beginnings, and the verdict on a server that answers wrongly on one path only."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.backends.openai import OpenAI
from pytest_longctx.client import state_paths
from pytest_longctx.client.state_paths import tasks
from pytest_longctx.client.state_paths.reading import Pieces
from pytest_longctx.findings.ask import Ask, Path
from pytest_longctx.miniatures.faults import ForgetsCache, KeepsCache
from pytest_longctx.miniatures.server import Honest
from pytest_longctx.probe import codes, number_formats
from pytest_longctx.prompts import PromptFactory
from tests.unit import factories
from tests.unit.fake_engine import prompts, serving


def test_every_path_that_a_finding_can_name_is_walked():
    assert set(state_paths.PATHS) == set(get_args(Path))


def probe(seed=0) -> PromptFactory:
    return PromptFactory(seed, "paths", codes.FILLER_IDS)


@given(st.integers(200, 1500), st.data())
def test_another_tail_differs_from_its_first_token_on(tokens, data):
    shared = data.draw(st.integers(0, tokens - 2))
    task = tasks.new(probe(), tokens, 64, probe=True)
    other = tasks.other_tail(task, shared, probe(1))
    assert task.question is not None
    assert other.question is not None
    same = np.asarray(task.prompt.ids == other.prompt.ids)
    assert same[:shared].all()
    assert not same[shared]
    for one, two in zip(task.question.needles, other.question.needles, strict=True):
        assert (one.key, one.position) == (two.key, two.position)
        assert (one.value == two.value) == (one.position < shared)
        assert other.prompt.ids[two.position] == codes.needle(two.key, two.value)


def test_the_next_turn_holds_the_turn_before_and_asks_the_same():
    task = tasks.new(probe(), 500, 64, probe=True)
    assert task.question is not None
    following = tasks.after(task, task.question.answer, probe(1), 100)
    assert (following.prompt.ids[:500] == task.prompt.ids).all()
    assert tuple(following.prompt.ids[500:564]) == task.question.answer
    assert following.question is not None
    assert following.question.answer == task.question.answer


def test_both_sides_of_a_border_have_needles():
    task = tasks.new(probe(), 1000, 64, probe=True, border=512)
    assert task.question is not None
    assert {510, 511, 512, 513} <= {needle.position for needle in task.question.needles}


def test_a_position_is_named_by_its_block_chunk_and_window():
    said = Pieces(128, 2048, 8192).containing(2304)
    assert (
        said
        == "token 2,304 of the prompt, in block 18 (of 128 tokens), chunk 1 (of 2,048 tokens), window 0 (of 8,192 tokens)"
    )


class Garbled(Honest):
    """Answers a prompt that it finds in its cache with garbage."""

    def events(self, request):
        for event in super().events(request):
            yield (
                {"choices": [{**event["choices"][0], "text": " ?"}]}
                if self.cached(request) and event["choices"]
                else event
            )


class Claiming(ForgetsCache):
    """Says that it caches prefixes, and never finds one."""

    def metrics(self):
        return super().metrics().replace("block_size", 'enable_prefix_caching="True",block_size')


class Claims(Honest):
    """Says that it caches prefixes; finds a prompt if it had the same one, and not if only the beginnings agree."""

    def metrics(self):
        return super().metrics().replace("block_size", 'enable_prefix_caching="True",block_size')


class FindsBeginnings(Claims):
    """Finds half of each prompt of 500 tokens in its cache."""

    def cached(self, request):
        return 240 if request.tokens == 500 and self.seen else super().cached(request)


class Off(ForgetsCache):
    """Says that it caches no prefixes, and names the cached tokens of each request."""

    def usage(self, request):
        return {**super().usage(request), "prompt_tokens_details": {"cached_tokens": 0}}

    def metrics(self):
        return super().metrics().replace("block_size", 'enable_prefix_caching="False",block_size')


class FirstHalf(FindsBeginnings):
    """Finds half of each prompt in its cache, as one does that is too small for more; names the cached tokens."""

    def usage(self, request):
        return {**super().usage(request), "prompt_tokens_details": {"cached_tokens": self.cached(request)}}


class Deaf(Honest):
    """Finds every prompt in its cache, whether or not it had it."""

    def cached(self, request):
        return (request.tokens - 1) // 16 * 16


def walk(mind, path, tokens=500, **deployment):
    with serving(mind, Miniature()) as served:
        server = replace(served, deployment=served.deployment.model_copy(update=deployment))
        return state_paths.observe(server, prompts(), Ask(path=path, prompt_tokens=tokens, output_tokens=4))


@pytest.mark.parametrize("path", ["cold", "repeated", "reset", "other-salt"])
def test_an_honest_server_gives_the_cold_answer_on_every_path(path):
    seen = walk(Honest(), path)
    assert (seen.outcome, seen.metrics["answers_changed"], seen.metrics["foreign_tokens"]) == ("serves", 0, 0)
    assert seen.metrics.get("hit_share", 1) == 1


def test_a_warm_answer_that_is_garbage_is_named():
    seen = walk(Garbled(), "repeated")
    assert seen.metrics["answers_changed"] == 2
    assert "496 of them cached" in seen.said


def test_a_cache_that_never_answers_is_not_taken_unless_the_server_claims_it():
    assert walk(ForgetsCache(), "repeated").outcome is None
    claimed = walk(Claiming(), "repeated")
    assert (claimed.outcome, claimed.metrics["hit_share"]) == ("serves", 0)


def test_beginnings_are_wanted_from_a_model_whose_layers_see_all_tokens():
    seen = walk(Claims(), "block-border")
    assert (seen.outcome, seen.metrics["hit_share"]) == ("serves", 0)


@pytest.mark.parametrize("make", ["probe-gpt-oss", "probe-nemotron-h"], ids=["windows", "states"])
def test_an_engine_chooses_where_a_model_with_windows_or_states_can_continue(make):
    model = factories.deployment(backend="miniature").model.model_copy(update={"make": make})
    seen = walk(Claims(), "block-border", model=model)
    assert (seen.outcome, "--prefix-cache-retention-interval" in seen.said) == (None, True)
    assert seen.metrics["hit_share"] == 1, "the whole prompts that were asked again"
    assert walk(FindsBeginnings(), "block-border", model=model).outcome == "serves"


@pytest.mark.parametrize("path", ["crowd", "abandoned"])
def test_a_path_that_needs_no_prefix_cache_is_taken_without_one(path):
    slow = replace(Off(), read_s=0.5)  # a prompt of 50,000 tokens takes so long that a client can leave
    seen = walk(slow, path, tokens=100 if path == "crowd" else 50_000)
    assert (seen.outcome, seen.metrics["answers_changed"], seen.metrics["foreign_tokens"]) == ("serves", 0, 0)
    assert "hit_share" not in seen.metrics


def test_branches_may_take_the_blocks_behind_their_common_beginning():
    seen = walk(FirstHalf(), "branch")
    assert (seen.outcome, seen.metrics["hit_share"]) == ("serves", 1)


def test_a_cache_outside_the_engine_outlasts_a_reset():
    flags = {**factories.deployment(backend="miniature").flags, "kv-offloading-size": 8.0}
    seen = walk(Honest(), "reset", flags=flags)
    assert (seen.outcome, "kv-offloading-size" in seen.said) == (None, True)


def test_a_server_that_cannot_be_made_cold_is_judged_by_what_needs_no_control():
    with serving(Deaf(), OpenAI()) as server:
        seen = state_paths.observe(server, prompts(), Ask(path="cold", prompt_tokens=500, output_tokens=4))
    assert (seen.outcome, "not compared with a cold reading" in seen.said) == (None, True)


def test_tokens_that_no_earlier_prompt_had_are_foreign():
    seen = walk(Deaf(), "cold")
    assert seen.metrics["foreign_tokens"] == 496
    assert "496 tokens of a prompt that was read under a cache salt of its own came from the cache" in seen.said
    assert walk(KeepsCache(), "reset").metrics["foreign_tokens"] == 496


def test_a_backend_without_salts_cannot_be_asked_about_them():
    with serving(Honest(), OpenAI()) as server:
        seen = state_paths.observe(server, prompts(), Ask(path="other-salt", prompt_tokens=500, output_tokens=4))
    assert (seen.outcome, "no cache salt" in seen.said) == (None, True)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("external", "no flag of the deployment connects an external cache"),
        ("speculation", "no counter of drafted tokens"),
        ("evicted", "size of the server's KV cache is not known"),
        ("window-border", "the server has no attention windows, or their size is not known"),
        ("stored-dtype", "only for a probe"),
    ],
)
def test_a_path_that_cannot_be_walked_says_why(path, why):
    seen = walk(Honest(), path)
    assert seen.outcome is None
    assert why in seen.said


def test_a_reading_that_is_not_served_is_the_evidence():
    seen = walk(replace(Honest(), max_model_len=100), "repeated")
    assert (seen.outcome, seen.phase) == ("refuses", "request")


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("bfloat16", 7), ("fp8", 3), ("fp8_e5m2", 2), ("turboquant_k8v4", 6), ("int4_per_token_head", 2), ("auto", None)],
)
def test_a_dtype_keeps_so_many_bits_of_a_key(dtype, bits):
    assert number_formats.mantissa_bits(dtype) == bits


def drafted(context, count=4, longest=4):
    """What vLLM's n-gram proposer drafts: the tokens after the earliest place of the longest of the last tokens."""
    for length in range(longest, 0, -1):
        last = context[-length:]
        for at in range(len(context) - length):
            if context[at : at + length] == last:
                return context[at + length : at + length + count]
    return []


@given(st.integers(400, 1500))
def test_an_answer_in_the_prompt_invites_right_drafts_and_in_reverse_wrong_ones(tokens):
    task = tasks.new(probe(), tokens, 64, probe=True)
    assert task.question is not None
    right = tasks.after(task, task.question.answer, probe(1), 128)
    wrong = tasks.after_reversed(tasks.other_tail(task, 0, probe(1)), task.question.answer, probe(1), 128)
    for following, drafts_are_right in ((right, True), (wrong, False)):
        assert following.question is not None
        answer = list(following.question.answer)
        for done in range(1, len(answer) - 1):
            drafts = drafted([*following.prompt.ids.tolist(), *answer[:done]])
            assert drafts
            assert (drafts[0] == answer[done]) is drafts_are_right


def test_without_a_provable_answer_the_answer_itself_is_reversed():
    task = tasks.new(probe(), 500, 5, probe=False)
    following = tasks.after_reversed(task, [7, 8, 9], probe(1), 100)
    assert following.prompt.ids[500:503].tolist() == [9, 8, 7]
