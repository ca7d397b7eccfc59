"""Checks of published configs, each a case with its ``config`` and what is ``expected`` of it."""

from collections.abc import Mapping
from typing import Any

import pytest

from pytest_longctx.backends import context_length
from pytest_longctx.shapes import ModelShape, read


def exact(case: Mapping[str, Any]) -> ModelShape:
    """Return the shape of the config of *case*, after a check of its KV, state and weight bytes."""
    expected, shape = case["expected"], read(case["config"])
    assert isinstance(shape, ModelShape), shape
    assert shape.kv_bytes_per_token() == expected["kv_bytes_per_token"]
    assert shape.state_bytes() == expected.get("state_bytes", 0)
    assert shape.weight_bytes() == pytest.approx(expected.get("weight_bytes", shape.weight_bytes()), rel=0.01)
    return shape


def usual_length(config: Mapping[str, Any]) -> int:
    """Return the context length in tokens that vLLM takes for *config* if no flag names one."""
    shape = read(config)
    assert isinstance(shape, ModelShape), shape
    longest = context_length.derived("vllm", config, shape.rope_positions)
    return context_length.by_default("vllm", config, longest) if longest else context_length.ASSUMED_BY_VLLM
