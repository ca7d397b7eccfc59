"""A server with pages of one token, as SGLang has by default: it reuses to the token what two contexts have in common."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.client.answer_tokens import Token
from pytest_longctx.client.exchange import Exchange, Usage
from pytest_longctx.client.state_paths import evidence, tasks
from pytest_longctx.client.state_paths.paths import PATHS
from pytest_longctx.client.state_paths.walk import Walk
from pytest_longctx.findings.ask import Ask
from pytest_longctx.miniatures.server import Honest
from pytest_longctx.processes.progress import no_progress
from pytest_longctx.prompts import PromptFactory
from tests.unit import factories
from tests.unit.fake_engine import serving

ANSWER = (5, 6, 7, 8)


class PagesOfOneToken(Walk):
    """A walk whose server reuses all that a context has in common with an earlier one, the last answered token too."""

    invented: ClassVar = 0
    """Tokens that it claims beyond."""
    had: ClassVar[list[np.ndarray]] = []

    async def _all(self, several):
        return [self.answer(task) for task, _ in several]

    def answer(self, task):
        most = max((tasks.common_prefix(task.prompt.ids, other) for other in self.had), default=0)
        self.had.append(tasks.context(task, ANSWER))
        return Exchange(
            sent_tokens=len(task.prompt),
            asked_tokens=len(ANSWER),
            started_s=0.0,
            ending="complete",
            ended_s=1.0,
            usage=Usage(len(task.prompt), len(ANSWER), cached_tokens=most + self.invented),
            tokens=tuple(Token(f"token_id:{each}", -0.5) for each in ANSWER),
        )


class Inventing(PagesOfOneToken):
    invented: ClassVar = 1


class KeepsPrompts(PagesOfOneToken):
    """A walk whose server finds the whole blocks of 16 tokens of an earlier prompt, and none that an answer completed."""

    had: ClassVar[list[np.ndarray]] = []

    def answer(self, task):
        said = super().answer(task)
        self.had[-1] = task.prompt.ids
        return replace(said, usage=replace(said.usage, cached_tokens=said.usage.cached_tokens // 16 * 16))


def of_conversation(make, tokens):
    """Evidence of a conversation with a server that keeps prompts only, without controls."""
    KeepsPrompts.had = []
    model = factories.deployment(backend="miniature").model.model_copy(update={"make": make})
    with serving(Honest(), Miniature()) as served:
        server = replace(served, deployment=served.deployment.model_copy(update={"model": model}))
        walk = KeepsPrompts(
            server,
            PromptFactory(1, "k", (5, 9)),
            Ask(path="extended", prompt_tokens=tokens, output_tokens=4),
            no_progress,
        )
        walk.pieces = replace(walk.pieces, block=16)
        walk.caching = True
        PATHS["extended"](walk)
        return evidence.summary(walk)


def test_an_engine_may_keep_the_states_of_prompts_and_not_those_of_answers():
    # 110 tokens and 3 of the answer: the answer completes the seventh block.
    seen = of_conversation("probe-nemotron-h", 110)
    assert (seen.outcome, "blocks that its answer completed" in seen.said) == (None, True)
    # 112 tokens are seven whole blocks, and the answer completes none: all that can be reused is.
    whole = of_conversation("probe-nemotron-h", 112)
    assert (whole.outcome, whole.metrics["hit_share"]) == ("serves", 1)


def test_blocks_that_an_answer_completed_are_wanted_from_a_model_whose_layers_see_all_tokens():
    seen = of_conversation("", 110)
    assert (seen.outcome, seen.metrics["hit_share"]) == ("serves", 6 / 7)


def foreign(kind, path, ids):
    kind.had = []
    with serving(Honest(), Miniature()) as server:
        walk = kind(server, PromptFactory(1, "k", ids), Ask(path=path, prompt_tokens=100, output_tokens=4), no_progress)
        PATHS[path](walk)
    return {each.foreign_tokens for each in walk.readings}


@pytest.mark.parametrize("path", ["extended", "branch", "repeated"])
def test_tokens_that_contexts_have_in_common_are_not_foreign(path):
    # Of few ids, so that tails agree by chance in their first tokens.
    assert foreign(PagesOfOneToken, path, (5, 9)) == {0}


@pytest.mark.parametrize("path", ["extended", "branch"])
def test_one_token_more_than_contexts_have_in_common_is_foreign(path):
    assert 1 in foreign(Inventing, path, (5, 9))


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12))
def test_a_common_prefix_is_the_longest(one, other):
    length = tasks.common_prefix(np.array(one), np.array(other))
    assert one[:length] == other[:length]
    assert one[length : length + 1] != other[length : length + 1] or length == min(len(one), len(other))


def test_a_border_between_pages_of_one_token_has_room_for_another_tail():
    with serving(Honest(), Miniature()) as server:
        walk = PagesOfOneToken(
            server,
            PromptFactory(1, "k", (5, 90)),
            Ask(path="chunk-border", prompt_tokens=64, output_tokens=4),
            no_progress,
        )
        walk.pieces = type(walk.pieces)(block=1, chunk=64)
        PATHS["chunk-border"](walk)
    assert {len(each.task.prompt) for each in walk.readings} >= {63, 64, 65, 67}
