import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts.ruler import documents, niah
from pytest_longctx.prompts.ruler.build import build
from pytest_longctx.prompts.ruler.tasks import TASKS
from tests.unit import tiny_ruler, tokenizers
from tests.unit.tokenizers import FAMILIES

NIAH = [name for name, task in TASKS.items() if task.kind == "niah"]
FACT = re.compile(r"The secret (\w+) for ([\w-]+) is: ([\w-]+)\.")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return tiny_ruler.material(tmp_path_factory.mktemp("index"))


def posed(material, task, tokens, seed=0, form="text", family="llama3", **more):
    read = tokenizers.vocabulary(family)
    return build(task, material, read, tokens, np.random.default_rng(seed), form, **more)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_has_exactly_the_length_that_was_asked_for(material, family, task):
    read = tokenizers.vocabulary(family)
    for tokens in (3000, 4097):
        made = posed(material, task, tokens, family=family)
        assert read.count(made.text, special=True) == tokens == len(made.prompt)
        ids = posed(material, task, tokens, family=family, form="ids").prompt
        assert len(ids) == tokens
        assert np.array_equal(ids.ids[: read.lead.size], read.lead)


@given(task=st.sampled_from(sorted(TASKS)), tokens=st.integers(2200, 9000), seed=st.integers(0, 2**32))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_any_length_is_exact_and_the_answer_is_in_the_text(material, task, tokens, seed):
    made = posed(material, task, tokens, seed)
    assert tokenizers.vocabulary("llama3").count(made.text, special=True) == tokens
    assert (
        any(each in made.text for each in made.expected)
        if made.task.scored == "any"
        else all(each in made.text for each in made.expected)
    )
    assert made.score(" and ".join(made.expected)) == 1
    assert made.score("") == 0


@pytest.mark.parametrize("seed", [4, 7])
@pytest.mark.parametrize("tokens", [2384, 2458])
def test_a_length_that_no_letter_and_no_single_mark_reaches_is_exact(material, tokens, seed):
    """The noise of ``vt`` ends in a line break there, and no cut may end in white space."""
    assert tokenizers.vocabulary("llama3").count(posed(material, "vt", tokens, seed).text, special=True) == tokens


def test_a_chat_renders_to_exactly_the_length(material):
    def render(messages):
        return f"<|user|> {messages[0]['content']}<|end|><|assistant|>"

    for task in TASKS:
        made = posed(material, task, 3000, form="chat", render=render)
        assert tokenizers.vocabulary("llama3").count(render(list(made.prompt.messages))) == 3000


@pytest.mark.parametrize("task", NIAH)
def test_the_facts_are_whole_and_those_asked_for_are_the_answer(material, task):
    for seed in range(5):
        made = posed(material, task, 3000, seed)
        facts = [(key, value) for kind, key, value in FACT.findall(made.text)]
        (asked,) = re.findall(r"secret \w+ for (.*?) in the text\?", made.text)
        keys = re.split(r", and |, ", asked)
        assert len(keys) == len(set(keys)) == made.task.query_count
        found = [value for wanted in keys for key, value in facts if key == wanted]
        assert sorted(found) == sorted(made.expected)
        assert len(made.expected) == made.task.query_count * made.task.value_count
        hidden = made.task.key_count * made.task.value_count
        assert len(made.depths) == hidden
        assert len(facts) == hidden if made.task.hay != "needle" else len(facts) > 20
        if made.task.hay == "needle":
            lines = made.text.split("\n", 1)[1].split("\nWhat ")[0].split("\n")
            assert all(FACT.fullmatch(line) for line in lines), "no fact is cut"


def test_one_value_is_asked_for_in_the_singular(material):
    assert posed(material, "niah_single_1", 3000).text.startswith(
        "A secret number is kept in the text below. You is asked"
    )
    assert posed(material, "niah_single_3", 3000).text.endswith(" is")
    assert posed(material, "niah_multivalue", 3000).text.startswith("Some secret numbers are kept")


def test_facts_in_essays_lie_at_the_published_depths_and_at_different_ones(material):
    depths = [each for seed in range(40) for each in posed(material, "niah_multikey_1", 4000, seed).depths]
    assert min(depths) < 0.05
    assert max(depths) > 0.9
    assert 0.4 < sum(depths) / len(depths) < 0.6
    assert len(niah.DEPTHS) == 40
    assert niah.DEPTHS[:3] == (0.0, 0.03, 0.05)


def test_a_fact_among_facts_lies_anywhere(material):
    depths = [posed(material, "niah_multikey_2", 2500, seed).depths[0] for seed in range(60)]
    assert [sum(low <= each < low + 0.25 for each in depths) > 5 for low in (0, 0.25, 0.5, 0.75)] == [True] * 4


def test_variables_are_assigned_along_one_chain(material):
    made = posed(material, "vt", 4000)
    example, task = made.text.split("\n\n\n\n")
    (value,) = re.findall(r"which of them are (\d+)\?", task)
    first, *others = re.findall(r"VAR (\w{5}) = (\d{5}|VAR \w{5}) ", task)
    assert first == (made.expected[0], value)
    assert [(name, before) for name, before in others] == [
        (name, f"VAR {before}") for before, name in zip(made.expected, made.expected[1:], strict=False)
    ]
    assert task.index(made.expected[0]) < task.index(made.expected[4])
    assert re.search(r"are \d{5}:  [A-Z]{3} [A-Z]{3} [A-Z]{3} [A-Z]{3} [A-Z]{3}$", example)
    assert not set(re.findall(r"[A-Z]{3,5}", example)) & set(made.expected)


@pytest.mark.parametrize(("tokens", "often", "seldom"), [(3000, 6, 1), (9000, 30, 3), (60_000, 60, 6)])
def test_ten_words_are_the_most_common_ones(material, tokens, often, seldom):
    made = posed(material, "cwe", tokens)
    listed = re.findall(r"(\d+)\. (\w+)", made.text.split("Here is a list.\n")[2].split("\nQuestion")[0])
    assert [int(number) for number, _ in listed] == list(range(1, len(listed) + 1))
    counts = Counter(word for _, word in listed)
    assert {word: counts[word] for word in made.expected} == dict.fromkeys(made.expected, often)
    assert len(set(made.expected)) == 10
    others = [count for word, count in counts.items() if word not in made.expected]
    assert max(others) <= seldom + 2
    assert Counter(others).most_common(1)[0][0] == seldom


@pytest.mark.parametrize("tokens", [1500, 4000, 30_000])
def test_three_coded_words_are_the_most_frequent_after_the_dots(material, tokens):
    made = posed(material, "fwe", tokens)
    counts = Counter(made.text.removeprefix("Read the codes. ").split("\nQuestion")[0].split())
    ranked = [word for word, _ in counts.most_common(6)]
    assert ranked[0] == "..."
    assert ranked[1:4] == list(made.expected)
    top, dots = counts[ranked[1]], counts["..."]
    assert 3.6 < dots / top < 4.6  # 4 by the square of the rank, and dots that make the length exact
    assert all(re.fullmatch(r"[a-z]{6}", word) for word in ranked[1:])
    assert counts[ranked[3]] > counts[ranked[4]]


@pytest.mark.parametrize("task", ["qa_1", "qa_2"])
def test_a_question_has_its_documents_whole_and_only_the_last_document_is_cut(material, task):
    made = posed(material, task, 6000)
    text = made.text.removeprefix("Read the papers.\n\n").split("\n\nAnswer briefly")[0]
    found = re.split(r"(?:^|\n\n)Paper \d+:\n", text)[1:]
    numbers = [int(each) for each in re.findall(r"(?:^|\n\n)Paper (\d+):\n", text)]
    assert numbers == list(range(1, len(numbers) + 1))
    known = material.questions(made.task.questions)
    (asked,) = [
        each for each in known.asked if each.question == made.text.split("Question: ")[1].removesuffix(" Answer:")
    ]
    assert made.expected == asked.answers
    own = [known.documents[number] for number in asked.own]
    assert all(found[:-1].count(each) == 1 for each in own)
    assert all(each in known.documents for each in found[:-1])
    assert len(found) > len(own)


def test_all_documents_of_the_question_are_in_the_part_that_is_kept(material):
    known = material.questions("hotpotqa")
    for seed in range(25):
        rng, asked = np.random.default_rng(seed), known.asked[seed]
        draft = documents._draft(material.document, known, asked, 6000, rng)
        assert all(draft.text[: draft.least].count(known.documents[number]) == 1 for number in asked.own)
        assert len(draft.text) > 6000


def test_documents_of_a_small_data_set_repeat_but_not_those_of_the_question(material):
    made = posed(material, "qa_1", 30_000)
    known = material.questions("squad")
    (asked,) = [each for each in known.asked if each.question in made.text]
    assert made.text.count(known.documents[asked.own[0]]) == 1
    assert made.text.count(known.documents[asked.near[0]]) > 1


def test_the_same_seed_gives_the_same_prompt_and_another_one_another(material):
    for task in TASKS:
        one, same, other = (posed(material, task, 3000, seed).text for seed in (1, 1, 2))
        assert one == same != other


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("tokens", [1, 20, 120])
def test_a_length_without_room_is_refused(material, task, tokens):
    try:
        made = posed(material, task, tokens)
    except PromptError as problem:
        assert re.search(rf"{tokens:,} tokens was requested", str(problem))  # noqa: PT017
    else:
        assert tokenizers.vocabulary("llama3").count(made.text, special=True) == tokens


def test_an_unknown_task_is_named(material):
    with pytest.raises(PromptError, match="unknown RULER task 'niah_single_4': did you mean 'niah_single_"):
        posed(material, "niah_single_4", 1000)


def test_facts_that_all_take_equally_many_tokens_are_cut(material):
    """Every character is a token, so every fact about a UUID has the same length, and no sum of them fits."""
    read = tokenizers.characters()
    for tokens in (3001, 3002, 3040):
        made = build("niah_multikey_3", material, read, tokens, np.random.default_rng(tokens), "text")
        assert read.count(made.text, special=True) == tokens
        assert made.expected[0] in made.text
