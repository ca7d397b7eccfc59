import numpy as np
import pytest

from pytest_longctx.errors import PromptError
from pytest_longctx.probe import codes, hidden_tasks
from pytest_longctx.probe.hidden_tasks import PROVABLE, pose
from pytest_longctx.probe.weights import LLAMA, LLAMA4
from pytest_longctx.prompts import Prompt, PromptFactory
from tests.probe_reference import Reference

MODELS = {"probe-llama": Reference(LLAMA), "probe-llama4": Reference(LLAMA4)}


def filler(tokens, seed=0):
    return PromptFactory(seed, "tasks", codes.FILLER_IDS)(tokens)


def ids_of(posed):
    assert isinstance(posed.prompt, Prompt)
    return posed.prompt.ids


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("name", PROVABLE)
def test_the_right_answer_has_the_full_score_by_the_weights_themselves(name, make):
    for seed in range(3):
        posed = pose(name, filler(20_000, seed), make)
        assert len(posed.prompt) == 20_000
        ids = ids_of(posed)
        model = MODELS[make]
        said = model.answer(model.read(ids), int(ids[-1]), len(posed.expected))
        text = " ".join(codes.words()[each] for each in said)
        assert posed.score(text) == 1, (text, posed.expected)


@pytest.mark.parametrize("name", PROVABLE)
def test_a_lost_fact_has_no_score(name):
    posed, model = pose(name, filler(20_000), "probe-llama"), MODELS["probe-llama"]
    ids = ids_of(posed).copy()
    asked = int(ids[-1]) - codes.ASK
    facts = np.flatnonzero((ids >= codes.NEEDLE) & (ids < codes.ANSWER))
    (place,) = [at for at in facts if (int(ids[at]) - codes.NEEDLE) // codes.VALUES == asked]
    ids[place] = codes.FILLER
    said = model.answer(model.read(ids), int(ids[-1]), len(posed.expected))
    text = " ".join(codes.words()[each] for each in said)
    assert posed.score(text) == 1 - 1 / len(posed.expected)


def test_what_surrounds_the_facts_is_as_in_the_published_task():
    noise = ids_of(pose("niah_single_1", filler(5000), "probe-llama"))
    assert len(np.unique(noise)) <= 22  # twenty that repeat, the fact and the question
    essay = ids_of(pose("niah_multikey_1", filler(5000), "probe-llama"))
    assert np.sum(essay < codes.FILLER) == 5  # four facts and the question
    among = ids_of(pose("niah_multikey_2", filler(5000), "probe-llama"))
    keys = (among[:-1].astype(int) - codes.NEEDLE) // codes.VALUES
    assert np.sum(keys == int(among[-1]) - codes.ASK) == 1
    assert len(np.unique(keys)) == codes.KEYS


def test_only_tasks_with_a_provable_answer_are_asked():
    assert sorted(PROVABLE) == [
        *(f"niah_multikey_{each}" for each in (1, 2, 3)),
        "niah_multiquery",
        *(f"niah_single_{each}" for each in (1, 2, 3)),
    ]
    with pytest.raises(PromptError, match="unknown task with a provable answer 'niah_multivalue'"):
        pose("niah_multivalue", filler(1000), "probe-llama")
    with pytest.raises(PromptError, match="probe-mamba2: RULER's tasks need a probe with full attention"):
        pose("niah_single_1", filler(1000), "probe-mamba2")
    with pytest.raises(PromptError, match="needs at least 128"):
        pose("niah_single_1", filler(100), "probe-llama")


def test_the_same_filler_gives_the_same_task():
    one, same, other = (hidden_tasks.pose("niah_single_2", filler(1000, seed), "probe-llama") for seed in (1, 1, 2))
    assert np.array_equal(ids_of(one), ids_of(same))
    assert not np.array_equal(ids_of(one), ids_of(other))
