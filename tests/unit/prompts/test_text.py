import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts import corpus
from pytest_longctx.prompts import text as prompt_text
from pytest_longctx.prompts import tokenizer as prompts_tokenizer
from pytest_longctx.prompts.corpus import Sentences, TextFile, Words
from pytest_longctx.prompts.text import Text, exact_text
from pytest_longctx.prompts.tokenizer import ModelTokenizer
from tests.unit import tokenizers
from tests.unit.tokenizers import FAMILIES

EVERY_FAMILY = st.sampled_from(sorted(FAMILIES))
OPENING = "480913225871. "


def whole_count(family, text, *, special=True):
    """Count like a server: one encoding of the whole text by a fresh tokenizer."""
    fresh = Tokenizer.from_str(tokenizers.vocabulary(family).rust.to_str())
    return len(fresh.encode(text, add_special_tokens=special).ids)


@pytest.fixture(scope="module")
def only_pairs():
    """Return a tokenizer with two tokens for every character."""
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.normalizer = normalizers.Replace(Regex("."), "é")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return ModelTokenizer(tokenizer)


@given(EVERY_FAMILY, st.integers(24, 1500), st.integers(0, 10**12 - 1))
def test_a_text_encodes_to_exactly_what_was_asked(family, tokens, number):
    read = tokenizers.vocabulary(family)
    text = exact_text(read, Sentences(number % 5), tokens, opening=f"{number:012}. ")
    assert len(read.rust.encode(text).ids) == tokens
    assert text.startswith(f"{number:012}")


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("tokens", [16, 4099, 60_001])
def test_a_long_text_is_exact_too(family, tokens):
    """The text has more than one piece and is encoded at once by a fresh tokenizer."""
    text = exact_text(tokenizers.vocabulary(family), Sentences(), tokens, opening=OPENING)
    assert whole_count(family, text) == tokens


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("piece_chars", [700, 5000])
def test_the_borders_of_pieces_change_no_id(family, piece_chars):
    read = tokenizers.vocabulary(family)
    (text,) = islice(corpus.endless(3), 1)
    text = text[:40_000]
    found = list(prompt_text.encoded(read, [text[:9000], text[9000:]], 10**9, piece_chars=piece_chars))
    assert len(found) > 5
    assert "".join(piece.text for piece in found) == text
    assert np.array_equal(np.concatenate([piece.ids for piece in found]), read.ids(text))


@given(
    EVERY_FAMILY,
    st.text(alphabet="ab é.\n\t  漢字'1", min_size=600, max_size=3000),
)
def test_the_borders_of_pieces_change_no_id_of_odd_text(family, text):
    read = tokenizers.vocabulary(family)
    found = list(prompt_text.encoded(read, [text], 10**9, piece_chars=300))
    assert "".join(piece.text for piece in found) == text
    assert np.array_equal(np.concatenate([piece.ids for piece in found]), read.ids(text))


def test_a_text_without_a_border_stays_whole():
    """One word of 2000 letters is a single token of a tokenizer that drops unknown characters."""
    read = tokenizers.vocabulary("word_piece")
    (found,) = prompt_text.encoded(read, ["x" * 2000], 10**9, piece_chars=300)
    assert len(found.text) == 2000
    assert found.ids.size == 1


def test_no_more_is_tokenised_than_is_needed():
    read = tokenizers.vocabulary("byte_level")
    found = sum(piece.ids.size for piece in prompt_text.encoded(read, corpus.endless(0), 200_000))
    assert 200_000 <= found < 240_000


def test_a_length_that_cannot_be_is_refused_with_the_nearest(only_pairs):
    with pytest.raises(PromptError, match=r"exactly 1,001 tokens .*nearest is 1,00[02]"):
        exact_text(only_pairs, Sentences(), 1001)
    assert len(exact_text(only_pairs, Sentences(), 1000)) == 500


def test_a_length_below_the_frame_is_refused_with_the_nearest():
    with pytest.raises(PromptError, match="2 tokens was requested; the shortest possible is about 3"):
        exact_text(tokenizers.vocabulary("word_piece"), Sentences(), 2)


def test_a_text_that_is_too_short_is_refused_with_its_length(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("the chair " * 100, encoding="utf-8")
    read = tokenizers.vocabulary("word_piece")
    held = read.ids("the chair " * 100).size
    with pytest.raises(PromptError, match=rf"story.txt holds {held:,} tokens; 4,998 were asked for\n.*repeat=True"):
        exact_text(read, TextFile(path), 5000)
    assert whole_count("word_piece", exact_text(read, TextFile(path, repeat=True), 5000)) == 5000


def test_a_text_with_more_characters_than_vllm_takes_is_refused(tmp_path):
    """Spaces that the tokenizer drops add no token, but vLLM checks the number of characters first."""
    path = tmp_path / "airy.txt"
    path.write_text(("the" + " " * 200) * 5000, encoding="utf-8")
    read = tokenizers.vocabulary("word_piece")
    limit = 2000 * max(len(token) for token in read.rust.get_vocab())
    assert prompt_text.character_limit(read, 2000) == limit
    with pytest.raises(
        PromptError,
        match=rf"1,000 tokens has [\d,]+ characters; vLLM with max_model_len 2,000 refuses more than {limit:,}",
    ):
        exact_text(read, TextFile(path), 1000, context=2000)
    assert len(exact_text(read, TextFile(path), 1000)) > limit


def test_a_text_whose_borders_mattered_is_caught_by_the_proof(monkeypatch):
    """If a piece were counted wrongly, the encoding of the whole text would reveal it."""
    monkeypatch.setattr(prompt_text, "border", lambda _read, _text, start: (start, 0))
    monkeypatch.setattr(prompt_text.encoded, "__kwdefaults__", {"piece_chars": 97, "skip": 0})
    with pytest.raises(PromptError, match=r"3,000 tokens was requested; the nearest text found encodes to [\d,]+"):
        exact_text(tokenizers.vocabulary("byte_level"), Sentences(), 3000)


@given(EVERY_FAMILY, st.integers(80, 400), st.sampled_from(["", "Be brief."]))
def test_messages_render_to_exactly_what_was_asked(family, tokens, system):
    def render(messages):
        return (
            "".join(f"<|{each['role']}|>\n{each['content'].strip()}<|end|>\n" for each in messages) + "<|assistant|>\n"
        )

    read = tokenizers.vocabulary(family)
    messages = prompt_text.exact_messages(read, render, Sentences(), tokens, system=system, opening=OPENING)
    assert [each["role"] for each in messages] == [*(["system"] if system else []), "user"]
    assert len(read.rust.encode(render(messages), add_special_tokens=False).ids) == tokens


def test_a_template_that_does_not_repeat_what_is_said_is_refused():
    read = tokenizers.vocabulary("byte_level")
    for render in (lambda _: "no", lambda each: 2 * each[0]["content"]):
        with pytest.raises(PromptError, match="chat template"):
            prompt_text.exact_messages(read, render, Sentences(), 100)


def test_a_model_s_own_template_is_rendered(tmp_path):
    pytest.importorskip("transformers")
    tokenizers.vocabulary("llama3").rust.save(str(tmp_path / "tokenizer.json"))
    template = "{% for m in messages %}<|user|>{{ m.content | trim }}<|end|>{% endfor %}<|assistant|>"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    render = prompt_text.renderer(str(tmp_path))
    assert render([{"role": "user", "content": " hello "}]) == "<|user|>hello<|end|><|assistant|>"
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8")
    with pytest.raises(PromptError, match="no chat template"):
        prompt_text.renderer(str(tmp_path))


@given(st.text(max_size=30), st.integers(1, 9))
def test_a_text_is_json_in_pieces(text, piece_chars):
    prompt = Text(text, 7, 0, "k")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_text, "_JSON_CHARS", piece_chars)
        body = b"".join(prompt.json_chunks())
        assert len(body) == prompt.json_bytes
    assert json.loads(body) == text
    assert len(prompt) == 7


def test_no_text_is_in_a_repr():
    assert "secret" not in repr(Text("secret", 1, 0, "k"))
    assert "secret" not in repr(prompt_text.Chat(({"role": "user", "content": "secret"},), 1, 0, "k"))


def test_the_sentences_are_the_same_anywhere_and_do_not_repeat():
    one = "".join(islice(corpus.endless(4), 3))
    assert one == "".join(islice(corpus.endless(4), 3))
    assert one != "".join(islice(corpus.endless(5), 3))
    assert one.startswith(next(corpus.endless(4)))
    message = one.split(". ")
    assert len(set(message)) == len(message)
    assert not any(letter.isdigit() for letter in one)


def test_words_are_of_the_vocabulary_and_open_each_prompt_differently():
    words = Words(tuple(f"w{number}" for number in range(100, 4096)))
    read = tokenizers.vocabulary("word_level")
    one, other = (words.opening(np.random.default_rng(seed)) for seed in (0, 1))
    assert one != other
    text = exact_text(read, words, 500, opening=one)
    assert read.ids(text).size == 500
    assert read.unknown not in read.ids(text)


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"\xff\xfe\x00", "codec"), (b"", "is empty")])
def test_a_file_that_is_no_text_is_refused(tmp_path, content, why):
    path = tmp_path / "odd.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PromptError, match=why):
        list(TextFile(path).pieces())


def test_a_limit_in_the_tokenizer_s_file_has_no_effect():
    read = tokenizers.vocabulary("word_piece")
    assert tokenizers.word_piece().truncation is not None
    assert read.count("the chair " * 1000, special=True) == 2002


def test_what_a_tokenizer_puts_in_front_is_known():
    def lead(family):
        return tokenizers.vocabulary(family).lead.tolist()

    assert {family: lead(family) for family in FAMILIES} == {
        "byte_level": [],
        "llama3": [0],
        "llama2": [1],
        "unigram": [],
        "word_piece": [1],
    }


def test_a_tokenizer_is_read_from_a_folder_or_refused(tmp_path):
    # A folder without tokenizer.json is left to transformers, which may not be installed.
    with pytest.raises(PromptError, match=r"tokenizer of .* cannot be loaded|need the package transformers"):
        prompts_tokenizer.load(str(tmp_path))
    for name in ("tokenizer.json", "copy.json"):
        tokenizers.vocabulary("unigram").rust.save(str(tmp_path / name))
    same = prompts_tokenizer.load(str(tmp_path)).digest == prompts_tokenizer.load(str(tmp_path / "copy.json")).digest
    assert same
    (tmp_path / "broken.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PromptError, match="cannot be loaded"):
        prompts_tokenizer.load(str(tmp_path / "broken.json"))


def test_a_missing_package_is_named_with_the_extra():
    with pytest.raises(PromptError, match=r"pip install 'pytest-longctx\[hf\]'"):
        prompts_tokenizer.needed("no_such_package_anywhere")
