"""Paths on which requests share an engine's steps, and tasks of probes with windows."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.client import state_paths
from pytest_longctx.client.state_paths import paths, tasks
from pytest_longctx.client.state_paths.concurrent_requests import answered_at_once
from pytest_longctx.client.state_paths.reading import Pieces
from pytest_longctx.findings.ask import Ask
from pytest_longctx.miniatures.server import Honest
from pytest_longctx.probe import codes, questions, registry
from pytest_longctx.prompts import PromptFactory
from tests.unit import factories
from tests.unit.fake_engine import prompts, serving

SHARED = ("same-at-once", "lengths", "arriving", "leaving", "cancelled")
TOKENS = 40


class Stepping(Honest):
    """Answers a token in each step, as an engine does, so that answers are in progress at one time."""

    def events(self, request) -> Iterator[dict[str, Any]]:
        for event in super().events(request):
            time.sleep(0.005)  # the time of a step
            yield event


class Mixing(Stepping):
    """Answers with another request's text while more than one is answered."""

    def events(self, request):
        for event in super().events(request):
            choices = event["choices"] and [{**event["choices"][0], "text": " ?"}]
            yield {**event, "choices": choices} if self.running > 1 and choices else event


def walk(mind, path):
    with serving(mind, Miniature()) as server:
        return state_paths.observe(server, prompts(), Ask(path=path, prompt_tokens=400, output_tokens=TOKENS))


@pytest.mark.parametrize("path", [*SHARED, "other-beginning"])
def test_an_honest_server_gives_the_cold_answer(path):
    seen = walk(Stepping(), path)
    assert (seen.outcome, seen.metrics["answers_changed"]) == ("serves", 0), seen.said
    # This server's usage reports no cached tokens, and its counter is not that of one request while others run.
    assert seen.metrics["foreign_tokens"] in ((0,) if path == "other-beginning" else (0, None))


@pytest.mark.parametrize("path", SHARED)
def test_a_path_that_is_taken_says_so(path):
    measure = {
        "same-at-once": "answered_at_once",
        "lengths": "answered_at_once",
        "arriving": "arrived_during_answer",
        "leaving": "ended_during_answer",
        "cancelled": "cancelled_during_answer",
    }[path]
    assert walk(Stepping(), path).metrics[measure] >= 1


def test_an_answer_that_changes_in_company_is_not_held_to_be_right():
    seen = walk(Mixing(), "arriving")
    # Controls in company differ from those alone, so that no comparison is certain.
    assert seen.metrics["answers_changed"] != 0


def test_answers_one_after_the_other_are_no_company():
    apart = [factories.exchange(arrivals_s=(begin, begin + 0.5)) for begin in (1.0, 2.0, 3.0)]
    assert answered_at_once(apart) == 1
    assert answered_at_once([*apart, factories.exchange(arrivals_s=(1.2, 2.1))]) == 2
    assert answered_at_once([]) == 0


WINDOWED = sorted(
    name for name, family in registry.FAMILIES.items() if any(family.windows) and not name.endswith("-damaged")
)


def inside(task: tasks.Task) -> bool:
    """Whether each needle is seen when it is asked for."""
    question = task.question
    assert question is not None
    tokens = len(task.prompt)
    return all(
        window is None or needle.position >= questions.first_seen(tokens, needle.key, window)
        for needle in question.needles
        for window in [task.windows[needle.key]]
    )


@pytest.mark.parametrize("name", WINDOWED)
@given(tokens=st.integers(200, 9000), border=st.one_of(st.none(), st.integers(1, 60)), seed=st.integers(0, 99))
def test_needles_of_a_task_lie_in_the_windows_of_their_layers(name, tokens, border, seed):
    draw = PromptFactory(seed, "windows", codes.FILLER_IDS)
    windows = registry.windows(name)
    at = None if border is None else 128 * border
    task = tasks.new(draw, tokens, 64, probe=True, border=at, windows=windows)
    assert inside(task)
    assert task.question is not None
    assert len(task.question.needles) == codes.KEYS - 1
    answer = task.question.answer
    for first in (task, tasks.other_beginning(task, 128, draw), tasks.other_tail(task, tokens // 2, draw)):
        later = first
        for number in range(2):
            later = tasks.after(later, answer, draw, 160)
            assert inside(later), number
            assert later.question is not None
            planted = {needle.position: codes.needle(needle.key, needle.value) for needle in later.question.needles}
            assert all(later.prompt.ids[at] == token for at, token in planted.items())
            assert (later.prompt.ids[:tokens] == first.prompt.ids).all()


@pytest.mark.parametrize("name", WINDOWED)
def test_both_sides_of_a_border_are_read_by_a_probe_with_windows(name):
    draw = PromptFactory(3, "windows", codes.FILLER_IDS)
    task = tasks.new(draw, 5000, 64, probe=True, border=4096, windows=registry.windows(name))
    assert task.question is not None
    assert {4094, 4095, 4096, 4097} <= {needle.position for needle in task.question.needles}


def test_another_beginning_changes_the_first_block_alone():
    draw = PromptFactory(5, "beginning", codes.FILLER_IDS)
    task = tasks.new(draw, 900, 64, probe=True)
    other = tasks.other_beginning(task, 128, draw)
    assert (other.prompt.ids[128:] == task.prompt.ids[128:]).all()
    assert (other.prompt.ids[:128] != task.prompt.ids[:128]).any()
    assert other.question is not None
    assert task.question is not None
    assert other.question.answer != task.question.answer


class Sent:
    """A walk that sends nothing, and keeps the tasks that it would send."""

    block, tokens = 128, 900
    pieces = Pieces(block=128)
    asked = Ask(path="decode-border", prompt_tokens=900, output_tokens=64)

    def __init__(self):
        self.sent, self.prompt = [], PromptFactory(7, "sent", codes.FILLER_IDS)

    def new(self, length=900):
        return tasks.new(self.prompt, length, 64, probe=True)

    def read(self, task, **how):
        self.sent.append(task)

    again = read

    def together(self, several):
        self.sent += several


def test_each_needle_is_read_just_behind_the_border_of_a_block():
    walked: Any = Sent()
    paths.decode_border(walked)
    behind = {7 * 128 + at - len(task.prompt) for task in walked.sent for at in range(4)}
    assert behind >= set(range(64))


def test_the_other_beginning_is_in_the_cache_with_other_blocks_behind_it():
    walked: Any = Sent()
    paths.other_beginning(walked)
    first, between, other, last = (task.prompt.ids for task in walked.sent)
    assert (last == first).all()
    assert tasks.common_prefix(first, other) == 0
    assert tasks.common_prefix(between, other) == 128
    assert (first[128:] == other[128:]).all()
