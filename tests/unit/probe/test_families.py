import math
from dataclasses import replace

import numpy as np
import pytest

from pytest_longctx.deployments import models
from pytest_longctx.deployments.deployment import Model
from pytest_longctx.probe import codes, decoders, gemma, grading, hybrids, layout, questions, registry, softmax
from pytest_longctx.prompts import PromptFactory
from pytest_longctx.shapes import NotUnderstood
from tests import probe_families_reference as reference

SOUND = [name for name in registry.FAMILIES if not name.endswith("-damaged")]
FAMILIES = pytest.mark.parametrize("name", SOUND)
FILLER = PromptFactory(1, "families", codes.FILLER_IDS)
TOKENS = 300
ROUNDINGS = 3
"""Of BF16 between an attention weight and a logit, each 2^-9 of it; see `tests.probe_margin`."""


def asked(windows, tokens=TOKENS, needles=63):
    return questions.plant(FILLER(tokens), questions.spread(tokens, needles, windows), windows)


def answered(family, question, tensors=None, *, margin=False):
    """Return the grade of what FP64 answers after each right answer, and the least lead of a right answer if asked."""
    tensors = reference.loaded(family) if tensors is None else tensors
    ids = np.concatenate([question.prompt.ids, question.answer[:-1]]).astype(np.uint32)
    logits = reference.logits(family, tensors, ids, len(question.answer))
    grade = grading.ids(question, logits.argmax(axis=1).tolist())
    if not margin:
        return grade
    right = logits[np.arange(len(logits)), list(question.answer)].copy()
    logits[np.arange(len(logits)), list(question.answer)] = -np.inf
    return grade, float((right - logits.max(axis=1)).min()), float(right.max())


@FAMILIES
def test_fp64_finds_every_needle_with_more_lead_than_bf16_can_take(name):
    family = registry.FAMILIES[name]
    grade, lead, largest = answered(family, asked(family.windows), margin=True)
    assert grade.sound, grade
    assert grade.denied
    assert lead > 2 * ROUNDINGS * 2.0**-9 * largest


def without_keys(tensors, layer):
    zeroed = {each: np.zeros_like(tensors[each]) for each in registry.stores(tensors, layer.index)}
    return tensors | zeroed


@FAMILIES
def test_a_layer_that_stores_no_keys_loses_its_own_needles_only(name):
    family = registry.FAMILIES[name]
    layer = family.layers[-1]
    grade = answered(family, asked(family.windows), without_keys(reference.loaded(family), layer))
    assert {step.needle.key for step in grade.failures} == set(layer.keys)


@pytest.mark.parametrize(
    "name", ["probe-gqa-128", "probe-gpt-oss", "probe-deepseek-v2", "probe-qwen3-next", "probe-mamba2"]
)
def test_noise_on_what_a_layer_stores_loses_needles_of_that_layer(name):
    family = registry.FAMILIES[name]
    tensors, layer = reference.loaded(family), family.layers[-1]
    for each in registry.stores(tensors, layer.index):
        noise = np.random.default_rng(1).standard_normal(tensors[each].shape)
        tensors[each] = tensors[each] + noise * np.abs(tensors[each]).max()
    failed = {step.needle.key for step in answered(family, asked(family.windows), tensors).failures}
    assert failed & set(layer.keys)


@pytest.mark.parametrize(
    "name", ["probe-gqa-128", "probe-gpt-oss", "probe-deepseek-v2", "probe-qwen3-next", "probe-mamba2"]
)
def test_a_damaged_copy_loses_the_needles_of_its_first_layer_only(name):
    family = registry.FAMILIES[f"{name}-damaged"]
    grade = answered(family, asked(family.windows))
    assert {step.needle.key for step in grade.failures} == set(family.layers[0].keys) - {63}
    assert grade.denied


@FAMILIES
def test_the_damaged_copy_is_its_family_without_keys_in_the_first_layer(name):
    family, copy = registry.FAMILIES[name], registry.FAMILIES[f"{name}-damaged"]
    sound, damaged = family.tensors(), copy.tensors()
    differing = {each for each in sound if not np.array_equal(sound[each], damaged[each])}
    assert differing == set(registry.stores(sound, family.layers[0].index))
    assert copy.config == family.config


@FAMILIES
def test_every_key_has_one_layer_and_every_weight_is_exact_in_bf16(name):
    family = registry.FAMILIES[name]
    assert sorted(key for layer in family.layers for key in layer.keys) == list(range(codes.KEYS))
    stored = family.tensors()
    inexact = {each for each, made in family.build(family).items() if (stored[each].astype(np.float32) != made).any()}
    assert inexact == set()
    assert sum(each.nbytes for each in stored.values()) < 100_000_000


@FAMILIES
def test_the_shape_of_a_family_is_understood(name):
    found = models.read_shape(Model(name=name, make=name))
    assert found is not None
    assert not isinstance(found, NotUnderstood), found


SOFTMAX = [name for name in SOUND if any(layer.kind in {"full", "sliding"} for layer in registry.FAMILIES[name].layers)]


def scores(family, layer):
    """Return what each ask (row) scores on each token of the vocabulary (column), the lowest and highest of all heads."""
    own = reference.Forward(family, reference.loaded(family)).own(layer)
    table = layout.embedding(family.config["hidden_size"]).astype(float)
    rotary = family.config.get("partial_rotary_factor", 0 if family.config["model_type"] == "nemotron_h" else 1)
    heads = decoders.heads_of(
        family.config, family.config.get("rope_parameters", {}).get("partial_rotary_factor", rotary)
    )
    query = (table[codes.ASK : codes.NONE] @ own["q_proj.weight"].T).reshape(codes.KEYS, heads.query, -1)[
        :, :, : heads.dim
    ]
    key = (table @ own["k_proj.weight"].T).reshape(len(table), heads.kv, -1)
    if "q_norm.weight" in own:
        more = 0 if family.config["model_type"] == "qwen3" else 1
        query, key = (reference.norm(each, 1e-6) for each in (query, key))
        query, key = query * (own["q_norm.weight"] + more), key * (own["k_norm.weight"] + more)
    each = [query[:, head] @ key[:, head // heads.per_kv].T / math.sqrt(heads.dim) for head in range(heads.query)]
    used = np.flatnonzero(np.abs(query).max(axis=(0, 1)) + np.abs(key).max(axis=(0, 1)))
    return np.min(each, axis=0), np.max(each, axis=0), heads, used.tolist()


@pytest.mark.parametrize("name", SOFTMAX)
def test_every_ask_scores_a_match_on_its_own_needles_and_zero_on_every_other_token(name):
    """All 64 asks against all 12,544 tokens: the margin holds for any prompt."""
    family = registry.FAMILIES[name]
    for layer in (each for each in family.layers if each.kind in {"full", "sliding"}):
        low, high, heads, used = scores(family, layer)
        matches = np.zeros(low.shape, bool)
        for key in layer.keys:
            matches[key, codes.needle(key, 0) : codes.needle(key, 63) + 1] = True
        assert low[matches].min() >= 0.99 * softmax.LEAST_SCORE
        # Zero, but for what FP64 rounds where queries and keys are normed.
        assert max(np.abs(low[~matches]).max(), np.abs(high[~matches]).max()) < 1e-12
        assert reference.turning(heads, decoders.STILL_BASE, used, 10_000_000) < 1e-7


@pytest.mark.parametrize("name", ["probe-deepseek-v2", "probe-deepseek-v3"])
def test_latent_scores_are_a_match_or_zero_too_and_either_part_of_a_cached_token_carries_half_the_keys(name):
    family = registry.FAMILIES[name]
    sizes, table = decoders.latent_of(family.config), layout.embedding().astype(float)
    for layer in family.layers:
        own = reference.Forward(family, reference.loaded(family)).own(layer)
        query, key, _ = reference.latent_heads(family.config, own, table)
        query, parts = query[codes.ASK : codes.NONE], (slice(0, sizes.nope), slice(sizes.nope, None))
        by_part = [query[:, :, part].transpose(1, 0, 2) @ key[:, :, part].transpose(1, 2, 0) for part in parts]
        for number, asked_for in enumerate(layer.keys):
            mine = slice(codes.needle(asked_for, 0), codes.needle(asked_for, 63) + 1)
            scale = (sizes.nope + sizes.rope) ** -0.5
            assert (by_part[number % 2][:, asked_for, mine] * scale).min() >= 0.99 * softmax.LEAST_SCORE
            for each in by_part:
                each[:, asked_for, mine] = 0
        assert max(np.abs(each).max() for each in by_part) < 1e-9


def written(family, layer):
    """What each token of the vocabulary writes: its key and value, and what it asks for, after the activation."""
    own = reference.Forward(family, reference.loaded(family)).own(layer)
    table = layout.embedding(family.config["hidden_size"]).astype(float)
    if layer.kind == "delta":
        mixed, delta = reference.delta_inputs(own, table, family.config)[0], hybrids.delta_net_of(family.config)
        keyed = delta.key_heads * delta.key_dim
        cuts, heads = (keyed, 2 * keyed), (delta.key_heads, delta.key_heads, delta.value_heads)
        query, key, value = np.split(reference.silu(mixed), cuts, axis=1)
    else:
        sizes = hybrids.scan_of(family.config)
        inner, states = sizes.heads * sizes.head_dim, sizes.groups * sizes.state
        projected = reference.silu((table @ own["in_proj.weight"].T)[:, inner:])
        heads = (sizes.groups, sizes.groups, sizes.heads)
        value, key, query = np.split(projected[:, : inner + 2 * states], (inner, inner + states), axis=1)
    return [each.reshape(len(table), count, -1) for each, count in zip((query, key, value), heads, strict=True)]


@pytest.mark.parametrize("name", ["probe-qwen3-next", "probe-qwen3.5", "probe-nemotron-h", "probe-mamba2"])
def test_only_needles_of_its_keys_write_into_a_state_each_to_a_row_of_its_own(name):
    """All 12,544 tokens: a state is a table with a row for each key, which nothing but its needle writes to."""
    family = registry.FAMILIES[name]
    for layer in (each for each in family.layers if each.kind in {"delta", "mamba2"}):
        query, key, _ = written(family, layer)
        expected = np.zeros((len(key), key.shape[2]), bool)
        for row, each in enumerate(layer.keys):
            expected[codes.needle(each, 0) : codes.needle(each, 63) + 1, row] = True
        assert ((key != 0) == expected[:, None]).all()
        asks = np.zeros((codes.KEYS, query.shape[2]), bool)
        asks[list(layer.keys), range(len(layer.keys))] = True
        assert ((query[codes.ASK : codes.NONE] != 0) == asks[:, None]).all()
        assert len({round(float(each), 9) for each in key[key != 0]}) == 1
        assert family.layer_of(0).lag <= 1


def test_a_match_outweighs_a_million_tokens():
    """1 / (1 + (N - 1) e^-s) at the least score, less 1 % for what other layers add to a norm."""
    assert 1 / (1 + (2**20 - 1) * math.exp(-0.99 * softmax.LEAST_SCORE)) > 1 - 1e-11


@pytest.mark.parametrize(
    "make", [decoders.mistral, gemma.gemma2, gemma.gemma3, decoders.gpt_oss], ids=lambda make: make.__name__
)
@pytest.mark.parametrize("off", [-1, 1])
def test_a_window_off_by_one_is_seen(make, off):
    family = make(160)
    question = asked(family.windows)
    tensors = reference.loaded(family)
    assert answered(family, question, tensors).sound
    layers = [replace(each, window=each.window + off) if each.window else each for each in family.layers]
    grade = answered(replace(family, layers=tuple(layers)), question, tensors)
    assert not grade.sound
    assert grade.denied is (off < 0)


def test_the_answer_of_gpt_oss_needs_its_sinks():
    family = registry.FAMILIES["probe-gpt-oss"]
    tensors = reference.loaded(family)
    for each in [name for name in tensors if name.endswith("sinks")]:
        tensors[each] = np.full_like(tensors[each], -np.inf)
    assert answered(family, asked(family.windows), tensors).count("right") == 0


@pytest.mark.parametrize("name", ["probe-qwen3-next", "probe-qwen3.5", "probe-nemotron-h", "probe-mamba2"])
def test_a_state_decays_by_exactly_nothing_in_fp32(name):
    family = registry.FAMILIES[name]
    for each, tensor in family.tensors().items():
        if each.endswith("A_log"):
            rate = np.exp(tensor.astype(np.float32))
            step = np.log1p(np.exp(np.float32(20)))
            assert (np.exp(-rate * step) == 1).all()


@pytest.mark.parametrize("hidden", [layout.HIDDEN, 512, gemma.HIDDEN])
def test_every_token_has_a_mean_square_of_one(hidden):
    assert ((layout.embedding(hidden) ** 2).mean(axis=1) == 1).all()
