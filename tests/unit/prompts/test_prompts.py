import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts import Prompt, PromptFactory, token_ids

ORDINARY = (1000, 30_000)
PINNED = [18157, 18889, 13335, 20347]
SEEDS = st.integers(0, 2**64)
KEYS = st.text(max_size=20)


def ids_of(prompt: Prompt) -> list[int]:
    return [int(each) for each in prompt.ids]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Use pieces of seven ids, so that short prompts contain borders between pieces too."""
    monkeypatch.setattr(token_ids, "_CHUNK_TOKENS", 7)


@given(st.integers(1, 300), SEEDS, KEYS)
def test_a_prompt_is_exactly_as_long_as_was_asked(tokens, seed, key):
    prompt = PromptFactory(seed, key, ORDINARY)(tokens)
    assert len(prompt) == prompt.ids.size == tokens


@pytest.mark.parametrize(("written", "tokens"), [("2Ki", 2048), ("1k", 1000), ("10_000", 10_000), (1, 1)])
def test_a_length_may_be_written_as_people_write_it(written, tokens):
    assert len(PromptFactory(0, "", ORDINARY)(written)) == tokens


@pytest.mark.parametrize("tokens", [0, -1, "0", "many", "1.5"])
def test_a_length_that_cannot_be_is_refused(tokens):
    with pytest.raises(PromptError, match="token"):
        PromptFactory(0, "", ORDINARY)(tokens)


@given(SEEDS, KEYS, st.lists(st.integers(1, 50), min_size=1, max_size=4))
def test_the_same_seed_and_key_give_the_same_prompts_in_the_same_order(seed, key, lengths):
    one, other = PromptFactory(seed, key, ORDINARY), PromptFactory(seed, key, ORDINARY)
    assert [ids_of(one(length)) for length in lengths] == [ids_of(other(length)) for length in lengths]


@given(SEEDS, KEYS, st.integers(16, 64), st.integers(16, 64))
def test_each_call_differs_in_its_first_block(seed, key, one, other):
    factory = PromptFactory(seed, key, ORDINARY)
    assert ids_of(factory(one))[:16] != ids_of(factory(other))[:16]


@given(st.lists(st.tuples(SEEDS, KEYS), min_size=2, max_size=2, unique=True))
def test_another_seed_or_key_differs_in_its_first_block(origins):
    one, other = (ids_of(PromptFactory(seed, key, ORDINARY)(16)) for seed, key in origins)
    assert one != other


def test_the_ids_of_a_seed_never_change_between_versions():
    """Results contain a seed so that a prompt can be rebuilt years later."""
    assert ids_of(PromptFactory(7, "a/LC-0001", ORDINARY)(4)) == PINNED


@given(st.integers(0, 2**17).flatmap(lambda low: st.tuples(st.just(low), st.integers(low + 2, low + 5))), SEEDS)
def test_every_id_is_an_ordinary_one(ordinary, seed):
    low, high = ordinary
    found = PromptFactory(seed, "k", ordinary)(200)
    assert set(ids_of(found)) == set(range(low, high))


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=40))
def test_the_pieces_are_json_of_the_ids_and_as_long_as_was_said(numbers):
    prompt = Prompt(np.array(numbers, dtype=np.uint32), 0, "k")
    pieces = list(prompt.json_chunks())
    body = b"".join(pieces)
    assert json.loads(body) == numbers
    assert len(body) == prompt.json_bytes
    assert len(pieces) == 2 + -(-len(numbers) // 7)


def test_a_prompt_larger_than_a_real_piece_is_json_too(monkeypatch):
    monkeypatch.undo()
    prompt = PromptFactory(0, "k", (10, 4096))((1 << 20) + 3)
    pieces = list(prompt.json_chunks())
    assert [len(piece) for piece in pieces] == [1, 5 << 20, 3 * 5 - 1, 1]
    assert np.array_equal(np.array(json.loads(b"".join(pieces)), dtype=np.uint32), prompt.ids)


def test_the_digest_is_of_the_ids_alone():
    prompt = PromptFactory(3, "k", ORDINARY)(20)
    by_hand = b"".join(each.to_bytes(4, "little") for each in ids_of(prompt))
    assert prompt.digest == hashlib.sha256(by_hand).hexdigest()[:12]
    assert prompt.digest == Prompt(prompt.ids, 4, "other").digest


def test_a_prompt_cannot_be_changed():
    prompt = PromptFactory(0, "k", ORDINARY)(5)
    with pytest.raises(ValueError, match="read-only"):
        prompt.ids[0] = 1


def test_no_id_is_in_a_repr():
    assert repr(PromptFactory(5, "a/b", ORDINARY)(12_345)) == "Prompt(12,345 tokens, seed 5, 'a/b')"
