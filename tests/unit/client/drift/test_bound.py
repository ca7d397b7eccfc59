"""The lower bound of a KL divergence, against the divergence of whole distributions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.client.drift.bound import divergence, nearest, term
from pytest_longctx.client.drift.scores import TOP_TOKENS, Array, Scores

VOCABULARY = 60


def distribution(seed: int, spread: float = 3.0) -> Array:
    """Whole distributions over a small vocabulary at three positions."""
    logits = np.random.default_rng(seed).normal(0, spread, size=(3, VOCABULARY))
    whole = np.exp(logits)
    found: Array = whole / whole.sum(axis=1, keepdims=True)
    return found


def told(whole: Array, said: tuple[int, ...] = (5, 6, 7)) -> Scores:
    """What a server says of the distributions *whole*: the most probable tokens, and those of the text."""
    ids = np.argsort(-whole, axis=1)[:, :TOP_TOKENS]
    tops = np.take_along_axis(whole, ids, axis=1)
    its = np.array(said)
    return Scores(ids.astype(np.int32), np.log(tops), its.astype(np.int32), np.log(whole[np.arange(len(whole)), its]))


def exact(p: Array, q: Array) -> Array:
    return np.asarray((p * np.log(p / q)).sum(axis=1))


seeds = st.integers(0, 10**6)
spreads = st.floats(0.1, 12.0)


@given(seeds, seeds, spreads, spreads)
def test_the_bound_is_never_negative_and_never_above_the_divergence(one, other, spread, other_spread):
    p, q = distribution(one, spread), distribution(other, other_spread)
    found = divergence(told(p), told(q))
    assert (found.nats >= 0).all()
    assert (found.nats <= exact(p, q) * (1 + 1e-9) + 1e-12).all()
    assert ((found.unnamed >= 0) & (found.unnamed <= 1)).all()


@given(seeds, spreads)
def test_equal_predictions_have_no_divergence(seed, spread):
    p = distribution(seed, spread)
    assert divergence(told(p), told(p)).nats.max() == 0


@given(seeds, st.floats(1e-4, 0.2))
def test_where_both_name_the_same_tokens_and_the_rest_is_proportional_the_bound_is_exact(seed, size):
    """The tail moves as a whole, so that the cell of all other tokens loses nothing."""
    p = np.sort(distribution(seed, 2.0), axis=1)[:, ::-1].copy()
    q = p.copy()
    q[:, 0] *= 1 - size
    q[:, 1:] *= (1 - q[:, :1]) / (1 - p[:, :1])
    said = (0, 1, 2)
    found, wanted = divergence(told(p, said), told(q, said)).nats, exact(p, q)
    named_alike = (told(p, said).ids == told(q, said).ids).all(axis=1)
    assert found[named_alike] == pytest.approx(wanted[named_alike], rel=1e-6, abs=1e-8)


@given(seeds, st.floats(1e-4, 1e-2))
def test_a_small_change_of_logits_is_seen_as_most_of_its_divergence(seed, size):
    p = distribution(seed, 4.0)
    logits = np.log(p) + np.random.default_rng(seed + 1).normal(0, size, p.shape)
    q = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert divergence(told(p), told(q)).nats.sum() > 0.3 * exact(p, q).sum()


def test_another_confident_token_is_far_apart_although_only_the_texts_token_is_named_by_both():
    p = np.full((1, 2000), 1e-6)
    q = p.copy()
    p[0, 100:120], q[0, 200:220] = 1e-4, 1e-4
    p[0, 100], q[0, 200] = 0.9, 0.9
    p, q = (each / each.sum() for each in (p, q))
    found = divergence(told(p, (5,)), told(q, (5,)))
    assert 5 < found.nats[0] <= exact(p, q)[0]
    assert found.unnamed[0] > 0.9


def test_one_position_does_not_depend_on_the_others():
    p, q = distribution(1), distribution(2)
    alone = [divergence(told(p[i : i + 1], (5 + i,)), told(q[i : i + 1], (5 + i,))).nats[0] for i in range(3)]
    assert divergence(told(p), told(q)).nats.tolist() == alone


def test_scores_of_other_texts_are_refused():
    with pytest.raises(ValueError, match="different texts"):
        divergence(told(distribution(1)), told(distribution(1), (5, 6, 8)))


def test_no_position_is_no_divergence():
    none = Scores(np.empty((0, TOP_TOKENS)), np.empty((0, TOP_TOKENS)), np.empty(0), np.empty(0))
    assert divergence(none, none).nats.size == 0


@given(st.floats(1e-12, 1), st.floats(1e-12, 1))
def test_a_cell_is_never_negative(p, q):
    assert term(np.array([p]), np.array([q]))[0] >= 0


@given(seeds, st.floats(0.0, 1.0), st.floats(1e-6, 0.5))
def test_what_the_other_server_may_give_is_shared_out_with_the_least_divergence(seed, left, most):
    rng = np.random.default_rng(seed)
    alone = rng.dirichlet(np.ones(6), size=1) * 0.8
    rest = np.array([0.2])
    q_alone, q_rest = nearest(alone, rest, np.array([left]), np.array([[most]]))
    assert (q_alone <= most * (1 + 1e-12)).all()
    assert q_alone.sum() + q_rest[0] == pytest.approx(left, abs=1e-12)
    best = term(alone, q_alone).sum() + term(rest, q_rest).sum()
    for _ in range(30):  # no other way of sharing is nearer
        tried = np.minimum(most, alone * rng.uniform(0, 2, size=alone.shape))
        tried *= min(1.0, left / tried.sum())
        other = np.array([max(0.0, left - tried.sum())])
        with np.errstate(divide="ignore"):
            assert best <= (term(alone, tried).sum() + term(rest, other).sum()) * (1 + 1e-9) + 1e-12
