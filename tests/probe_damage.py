"""
Damage to a KV cache as observed in engines. Each kind must show in the answer, at its depth.

A span covers the tokens from *start* to *stop*, *stop* excluded.
"""

from dataclasses import replace

import numpy as np

from tests.probe_reference import Cache


def zeroed(cache: Cache, start: int, stop: int) -> Cache:
    """A block that was never written: its tokens exist with keys and values of zero."""
    whole = ((cache.positions < start) | (cache.positions >= stop))[:, None, None]
    return replace(cache, keys=cache.keys * whole, values=cache.values * whole)


def dropped(cache: Cache, start: int, stop: int) -> Cache:
    """A chunk that was omitted from the prompt: its tokens are missing and the later ones move up."""
    kept = (cache.positions < start) | (cache.positions >= stop)
    moved = np.where(cache.positions >= stop, cache.positions - (stop - start), cache.positions)
    return Cache(cache.tokens - (stop - start), moved[kept], cache.keys[kept], cache.values[kept])


def shifted(cache: Cache, start: int, stop: int, *, by: int = 1) -> Cache:
    """A span whose values were written *by* positions too late: its keys lead to their neighbours' values."""
    inside = (cache.positions >= start) & (cache.positions < stop)
    late = cache.positions[inside] + by
    positions = np.union1d(cache.positions, late)
    shape = (len(positions), *cache.keys.shape[1:])
    keys, values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    at = np.searchsorted(positions, cache.positions)
    keys[at] = cache.keys
    values[at[~inside]] = cache.values[~inside]
    values[np.searchsorted(positions, late)] = cache.values[inside]
    return Cache(cache.tokens, positions, keys, values)


def swapped(cache: Cache, other: Cache, start: int, stop: int) -> Cache:
    """A block table that points to *other*, another prompt's cache, for one span."""
    theirs = (other.positions >= start) & (other.positions < stop)
    mine = (cache.positions < start) | (cache.positions >= stop)
    positions = np.concatenate([cache.positions[mine], other.positions[theirs]])
    order = np.argsort(positions)
    keys = np.concatenate([cache.keys[mine], other.keys[theirs]])[order]
    values = np.concatenate([cache.values[mine], other.values[theirs]])[order]
    return Cache(cache.tokens, positions[order], keys, values)


def head_lost(cache: Cache, head: int) -> Cache:
    """One KV head, as held by one of several devices, that reads zeros."""
    whole = np.ones(cache.keys.shape[1], np.float32)
    whole[head] = 0
    return replace(cache, keys=cache.keys * whole[:, None], values=cache.values * whole[:, None])
