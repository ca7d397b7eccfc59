import json
import multiprocessing
import os
import re
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.deployments.deployment import Model
from pytest_longctx.errors import PromptError
from pytest_longctx.prompts import PromptFactory, token_ids
from pytest_longctx.prompts.cache import TokenCache
from pytest_longctx.prompts.corpus import Sentences, TextFile
from pytest_longctx.prompts.factory import Reader, tokens
from pytest_longctx.prompts.needles import Needle, Repetition, hide, repetition, score
from pytest_longctx.prompts.text import Chat
from tests.unit import tokenizers
from tests.unit.tokenizers import FAMILIES

ORDINARY = (300, 600)
EVERY_FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))


@pytest.fixture
def reader(tmp_path):
    """Return a reader with a family's tokenizer from a file and a separate cache."""

    def make(family):
        path = tmp_path / f"{family}.json"
        tokenizers.vocabulary(family).rust.save(str(path))
        return Reader(str(path), cache=TokenCache(tmp_path / "shelf"))

    return make


def factory(read, seed=0, key="k"):
    return PromptFactory(seed, key, ORDINARY, lambda: read)


@EVERY_FAMILY
@pytest.mark.parametrize("tokens", [1, 40, 5000, 30_000])
def test_natural_text_is_exact_starts_as_the_tokenizer_does_and_reads_as_text(reader, family, tokens):
    read = reader(family)
    prompt = factory(read).natural(tokens)
    assert len(prompt) == tokens
    lead = read.vocabulary.lead
    assert np.array_equal(prompt.ids[: lead.size], lead)
    if tokens > 40:
        assert "loyal potter" in read.vocabulary.decode(prompt.ids[:60]).replace(" ##", "")


@EVERY_FAMILY
def test_every_kind_is_the_same_from_one_seed_and_new_from_its_first_block(reader, family):
    read = reader(family)

    def made(seed, key="k"):
        make = factory(read, seed, key)
        return [make(64).ids, make.natural(64).ids, make.natural(64).ids, make.needle(200, 0.5).prompt.ids]

    firsts = [tuple(int(each) for each in ids[:16]) for ids in (*made(1), *made(2), *made(1, "other"))]
    assert len(set(firsts)) == 12
    assert all(np.array_equal(one, other) for one, other in zip(made(1), made(1), strict=True))
    one, other = factory(read, 1).text(64), factory(read, 1).text(64)
    assert one.text == other.text
    assert one.text[:12] != factory(read, 2).text(64).text[:12]


@EVERY_FAMILY
@given(st.integers(150, 3000), st.floats(0, 1), st.integers(0, 2**32))
def test_a_haystack_is_exact_and_holds_its_needle_once(family, tokens, depth, seed):
    read = tokenizers.vocabulary(family)
    needle = Needle.draw(np.random.default_rng(seed))
    hay = read.ids(HAY)
    ids, lies = hide(read, needle, read.lead, hay, tokens, depth)
    assert ids.size == tokens
    fact = read.ids(needle.fact)
    places = [at for at in np.flatnonzero(ids == fact[0]) if np.array_equal(ids[at : at + fact.size], fact)]
    assert len(places) == 1
    length = tokens - read.lead.size - fact.size - read.ids(needle.question).size
    assert places[0] == read.lead.size + round(lies * length)
    assert abs(lies - depth) * length <= 257
    assert np.array_equal(ids[tokens - read.ids(needle.question).size :], read.ids(needle.question))


HAY = "".join(next(Sentences(8).pieces()))[:20_000]


def test_a_needle_stands_between_two_sentences():
    read = tokenizers.vocabulary("llama3")
    ids, _ = hide(read, Needle.draw(np.random.default_rng(0)), read.lead, read.ids(HAY), 2000, 0.5)
    assert re.search(r"\w\. The code of the \w+ \w+ is \d{7}\. The \w+ ", read.decode(ids))


@pytest.mark.parametrize("depth", [-0.1, 1.1, float("nan")])
def test_a_depth_outside_the_haystack_is_refused(reader, depth):
    with pytest.raises(PromptError, match="from 0"):
        factory(reader("byte_level")).needle(1000, depth)


def test_a_haystack_smaller_than_its_needle_is_refused(reader):
    with pytest.raises(PromptError, match="the needle alone takes"):
        factory(reader("byte_level")).needle(10, 0.5)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (" 4821937.", True),
        ("The code is 4,821,937", True),
        ("4 821 937", True),
        ("482193", False),
        ("14821937", False),
        ("48219370", False),
        ("4821938", False),
        ("", False),
    ],
)
def test_an_answer_is_right_when_the_code_stands_alone(answer, right):
    assert score(answer, "4821937") is right


def test_a_prompt_that_cannot_be_told_from_another_is_refused(tmp_path):
    """A tokenizer without English maps every text to the same ids."""
    path = tmp_path / "tokenizer.json"
    tokenizers.vocabulary("word_level").rust.save(str(path))
    with pytest.raises(PromptError, match=r"as its unknown token.*\n.*corpus.Words"):
        factory(Reader(str(path), cache=TokenCache(tmp_path))).natural(100)


def test_a_user_s_text_that_is_too_short_is_refused_unless_repeated_by_name(reader, tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("the wooden chair was near the gate. " * 20, encoding="utf-8")
    read = reader("llama3")
    with pytest.raises(PromptError, match=r"holds \d+ tokens; 5,000 were asked for"):
        factory(replace(read, source=TextFile(path))).natural(5000)
    assert len(factory(replace(read, source=TextFile(path, repeat=True))).natural(5000)) == 5000


def test_a_factory_of_random_ids_alone_says_so():
    with pytest.raises(PromptError, match="no tokenizer"):
        PromptFactory(0, "k", ORDINARY).natural(100)


@given(st.integers(16, 200), st.integers(0, 50), st.integers(16, 50), st.integers(1, 5), st.integers(0, 2**32))
def test_each_turn_holds_the_one_before_and_is_as_long_as_was_said(first, answer, new, count, seed):
    found = list(PromptFactory(seed, "k", ORDINARY).turns(first, answer, new, count))
    assert [len(turn) for turn in found] == [first + number * (answer + new) for number in range(count)]
    for earlier, later in pairwise(found):
        assert np.array_equal(later.ids[: len(earlier)], earlier.ids)
    assert len({turn.key for turn in found}) == count


@given(st.integers(1, 200), st.integers(16, 50), st.integers(2, 5), st.integers(0, 2**32))
def test_users_share_the_document_and_nothing_else(document, question, count, seed):
    found = list(PromptFactory(seed, "k", ORDINARY).users(document, question, count))
    assert {len(user) for user in found} == {document + question}
    assert len({user.ids[:document].tobytes() for user in found}) == 1
    assert len({user.ids[document : document + 16].tobytes() for user in found}) == count


def test_more_than_the_longest_prompt_is_refused_before_anything_is_made():
    make = PromptFactory(0, "k", ORDINARY)
    with pytest.raises(PromptError, match="1,000,000,010 tokens would result"):
        next(token_ids.users(make, 1_000_000_000, 10, 2))
    with pytest.raises(PromptError, match="would result"):
        next(token_ids.turns(make, 10, 10**9, 10, 2))


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5), st.integers(3, 9))
def test_what_is_said_again_and_again_is_found(phrase, times):
    answer = f"so it was that {' '.join(phrase * times)} and no more"
    found = repetition(answer)
    assert found is not None
    assert found.times >= 3
    assert " ".join([found.phrase] * found.times) in answer


@given(st.lists(st.integers(), max_size=60, unique=True))
def test_an_answer_that_says_each_word_once_repeats_nothing(words):
    assert repetition(" ".join(map(str, words))) is None


def test_the_shortest_phrase_is_named():
    assert repetition("the the the") == Repetition("the", 3)
    assert repetition("a b a b a b a b") == Repetition("a b", 4)
    assert repetition("first of all a b a b a and no more") is None


def build_slowly(folder, marks, start):
    """Request an entry in a worker at the same time as others; leaves a mark if this worker builds it."""

    def build():
        (marks / str(multiprocessing.current_process().pid)).touch()
        time.sleep(0.3)  # long enough for the others to start building if they did not wait
        return np.arange(200, dtype=np.uint8)

    start.wait(60)
    assert TokenCache(folder).fetch({"what": "same"}, build).sum() == np.arange(200, dtype=np.uint8).sum()


def test_workers_that_want_the_same_entry_build_it_once(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    workers = multiprocessing.get_context("spawn")
    arguments = (tmp_path / "shelf", marks, workers.Barrier(2))
    running = [workers.Process(target=build_slowly, args=arguments) for _ in range(2)]
    for worker in running:
        worker.start()
    for worker in running:
        worker.join()
    assert [worker.exitcode for worker in running] == [0, 0]
    assert len(list(marks.iterdir())) == 1
    assert not list((tmp_path / "shelf").glob("*.part"))


def entry(number, size=1000):
    return np.full(size, number, dtype=np.uint8)


def never():
    raise AssertionError("it was on the shelf")


def test_what_is_on_the_shelf_is_not_built_again_and_is_mapped(tmp_path):
    shelf = TokenCache(tmp_path)
    shelf.fetch({"n": 1}, lambda: entry(1))
    found = shelf.fetch({"n": 1}, never)
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, entry(1))
    assert not found.flags.writeable


@pytest.mark.parametrize("damage", [b"", b"no array", None])
def test_a_damaged_entry_is_built_again(tmp_path, damage):
    shelf = TokenCache(tmp_path)
    shelf.fetch({"n": 1}, lambda: entry(1))
    (path,) = tmp_path.glob("*.npy")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content) if damage is None else damage)
    assert np.array_equal(shelf.fetch({"n": 1}, lambda: entry(2)), entry(2))
    assert np.array_equal(shelf.fetch({"n": 1}, never), entry(2))


def test_a_full_shelf_forgets_what_was_longest_unread(tmp_path):
    shelf = TokenCache(tmp_path, limit_bytes=3500)
    for number in (1, 2, 3):
        shelf.fetch({"n": number}, partial(entry, number))
        (path,) = (each for each in tmp_path.glob("*.npy") if np.load(each)[0] == number)
        age(path, 100 - number)
    shelf.fetch({"n": 1}, never)  # read, so it is no longer the oldest
    shelf.fetch({"n": 4}, lambda: entry(4))
    assert sorted(int(np.load(path)[0]) for path in tmp_path.glob("*.npy")) == [1, 3, 4]


def age(path, seconds):
    os.utime(path, (time.time() - seconds,) * 2)


def test_an_entry_larger_than_the_shelf_is_kept_alone(tmp_path):
    shelf = TokenCache(tmp_path, limit_bytes=10)
    shelf.fetch({"n": 1}, lambda: entry(1))
    shelf.fetch({"n": 2}, lambda: entry(2))
    assert np.array_equal(shelf.fetch({"n": 2}, never), entry(2))
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_a_shelf_that_cannot_be_written_costs_time_and_not_the_run(tmp_path):
    (tmp_path / "file").touch()
    assert np.array_equal(TokenCache(tmp_path / "file" / "shelf").fetch({"n": 1}, lambda: entry(1)), entry(1))


def test_an_entry_that_cannot_be_built_leaves_nothing(tmp_path):
    def build():
        raise PromptError("no")

    with pytest.raises(PromptError):
        TokenCache(tmp_path).fetch({"n": 1}, build)
    assert not list(tmp_path.glob("*.npy"))


def test_text_is_tokenised_once_for_each_tokenizer_source_and_length(reader, tmp_path):
    def kept():
        return len(list((tmp_path / "shelf").glob("*.npy")))

    read = reader("byte_level")
    factory(read).natural(500)
    factory(read, 1).natural(500)
    factory(read, 2).needle(500, 0.1)
    assert kept() == 1
    factory(read)(500)
    assert kept() == 1
    factory(read).natural(501)
    factory(replace(read, source=Sentences(1))).natural(500)
    factory(reader("llama3")).natural(500)
    assert kept() == 4
    one = factory(read).text(300)
    assert kept() == 5
    assert one.text == factory(replace(read)).text(300).text
    assert kept() == 5


def test_a_prompt_without_a_run_is_exact_and_decided_by_its_arguments():
    prompt = tokens("16Ki", seed=7)
    assert len(prompt) == 16_384
    assert prompt.digest == tokens(16_384, seed=7).digest != tokens(16_384, seed=8).digest
    low, high = Model(name="any").ordinary_ids
    assert low <= prompt.ids.min() < low + 100
    assert high - 100 <= prompt.ids.max() < high
    assert set(tokens(1000, ordinary_ids=(5, 7)).ids) == {5, 6}


@pytest.mark.parametrize("count", [0, "many", True])
def test_what_is_no_count_of_tokens_is_refused(count):
    with pytest.raises(PromptError):
        tokens(count)


CHAT = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"


def test_a_fact_in_a_chat_is_new_each_time_and_exact(tmp_path):
    pytest.importorskip("transformers")
    read = tokenizers.vocabulary("llama3")
    read.rust.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    make = factory(Reader(str(tmp_path), cache=TokenCache(tmp_path / "shelf")))
    one, other = make.needle_chat(600, 0.5), make.needle_chat("600", 0.5)
    for each in (one, other):
        assert isinstance(each.prompt, Chat)
        (message,) = each.prompt.messages
        rendered = f"<|user|>{message['content']}<|end|><|assistant|>"
        assert len(each.prompt) == 600 == read.count(rendered)
        assert each.needle.fact in message["content"]
        assert each.depth == pytest.approx(0.5, abs=0.1)
    assert one.needle.expected != other.needle.expected
    assert one.prompt.messages[0]["content"][:12] != other.prompt.messages[0]["content"][:12]


@EVERY_FAMILY
def test_a_text_of_one_s_own_has_the_length_that_a_server_counts(reader, family):
    read = reader(family)
    made = factory(read).written("The loyal potter sold a chair.")
    assert made.text == "The loyal potter sold a chair."
    assert len(made) == len(read.vocabulary.rust.encode(made.text, add_special_tokens=True).ids)
