import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts import chat_needles
from pytest_longctx.prompts.corpus import Sentences, TextFile
from pytest_longctx.prompts.needles import Needle, score
from tests.unit import tokenizers
from tests.unit.tokenizers import FAMILIES

OPENING = "123456789012. "
NEEDLE = Needle.draw(np.random.default_rng(3))


def render(messages):
    return "".join(f"<|{each['role']}|>\n{each['content']}<|end|>\n" for each in messages) + "<|assistant|>\n"


def made(read, tokens, depth, source=None, needle=NEEDLE):
    found, lies = chat_needles.messages(read, render, source or Sentences(), needle, tokens, depth, opening=OPENING)
    return found, lies


@given(st.sampled_from(sorted(FAMILIES)), st.integers(300, 2500), st.floats(0, 1), st.integers(0, 2**32))
def test_a_message_is_exact_and_holds_its_fact_once(family, tokens, depth, seed):
    read, needle = tokenizers.vocabulary(family), Needle.draw(np.random.default_rng(seed))
    messages, lies = made(read, tokens, depth, needle=needle)
    assert len(read.rust.encode(render(messages), add_special_tokens=False).ids) == tokens
    (content,) = (each["content"] for each in messages)
    assert content.count(needle.fact.strip()) == 1
    assert content.startswith(OPENING)
    assert content.endswith("\n\n" + needle.asked)
    assert not score(needle.asked, needle.expected)
    before = content.partition(needle.fact.strip())[0].removeprefix(OPENING)
    after = content.partition(needle.fact.strip())[2].removesuffix(needle.asked)
    assert before.count(needle.expected) + after.count(needle.expected) == 0
    assert abs(len(before) / (len(before) + len(after)) - lies) < 0.1
    assert abs(lies - depth) * tokens < 300


@pytest.mark.parametrize("depth", [0.25, 0.5, 0.75])
def test_a_fact_stands_between_two_sentences(depth):
    messages, lies = made(tokenizers.vocabulary("llama3"), 2000, depth)
    assert re.search(r"\w\. The code of the \w+ \w+ is \d{7}\. The \w+ ", messages[0]["content"])
    assert lies == pytest.approx(depth, abs=0.03)


def test_the_first_and_the_last_place_are_just_there():
    read = tokenizers.vocabulary("byte_level")
    first, lies = made(read, 700, 0)
    assert (lies, first[0]["content"].startswith(OPENING + NEEDLE.fact.strip())) == (0, True)
    last, lies = made(read, 700, 1)
    assert (lies, last[0]["content"].endswith(f"{NEEDLE.fact}\n\n{NEEDLE.asked}")) == (1.0, True)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("tokens", [330, 700, 2131])
@pytest.mark.parametrize("depth", [0.001, 0.97, 0.99, 0.999, 0.9999])
def test_a_fact_near_an_end_leaves_room_for_the_exact_length(family, tokens, depth):
    read = tokenizers.vocabulary(family)
    messages, lies = made(read, tokens, depth)
    assert len(read.rust.encode(render(messages), add_special_tokens=False).ids) == tokens
    assert abs(lies - depth) * tokens < 300


@pytest.mark.parametrize("depth", [-0.1, 1.1, float("nan")])
def test_a_depth_outside_is_refused(depth):
    with pytest.raises(PromptError, match="from 0"):
        made(tokenizers.vocabulary("byte_level"), 1000, depth)


def test_a_message_smaller_than_its_needle_is_refused():
    with pytest.raises(PromptError, match="the needle alone takes"):
        made(tokenizers.vocabulary("byte_level"), 20, 0.5)


def test_a_text_that_ends_before_the_fact_is_refused(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("A short text. " * 20, encoding="utf-8")
    with pytest.raises(PromptError, match="holds"):
        made(tokenizers.vocabulary("byte_level"), 2000, 0.5, TextFile(path))


def test_a_template_that_depends_on_the_message_is_refused():
    read = tokenizers.vocabulary("byte_level")

    def shortened(messages):
        return render([{**each, "content": each["content"].replace("\n\n", " ")} for each in messages])

    with pytest.raises(PromptError, match="does not render every message in the same way"):
        chat_needles.messages(read, shortened, Sentences(), NEEDLE, 600, 0.5)
