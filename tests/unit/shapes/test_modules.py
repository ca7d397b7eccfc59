"""Expressions of checkpoints: the same answer as Python's, in a time that no expression can stretch."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.shapes.modules import Expression, Modules, module_names

NAMES = (
    "lm_head",
    "model.layers.0.self_attn.q_proj",
    "model.layers.11.mlp.experts.3.down_proj",
    "model.layers.1.mlp.shared_experts.up_proj",
    "mtp.layers.0.mlp.experts.7.gate_proj",
    "visual.blocks.3.attn.qkv",
    "",
)
WRITTEN = (
    ".*shared_experts.*",
    r".*mlp\.(gate|up|gate_up|down)_proj.*",
    ".*lm_head.*",
    "^(?!.*experts).*$",
    r"^(?!.*\.mlp\.experts(?:\.|$)).*$",
    "(?!.*experts).*proj",
    r"(?!(?:lm_head|visual\.blocks\.3\.attn\.qkv)$)(?:.*)",
    r"(?!.*(?:mtp|stages)\.\d+\.).*(?:mlp|ffn)\.experts\.\d+\.(?:gate_proj|up_proj|down_proj|w[123])$",
    r"^(?!.*self_attn\.(?:q_proj|k_proj)$).*$",
    r"(?=.*experts)(?!.*shared).*",
    r"^(?!.*language_model\.model\.layers\.)",
    r"(?![)(]|x).*\(?",
)


@pytest.mark.parametrize("text", WRITTEN)
def test_expressions_of_checkpoints_match_as_in_python(text):
    found = Expression.of(text)
    assert [found.match(name) for name in NAMES] == [re.match(text, name) is not None for name in NAMES]


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")  # Python may read "[[" otherwise some day
@given(st.text("ab.*+?|()[]^$!=\\", max_size=14), st.text("ab.", max_size=8))
def test_any_expression_that_is_read_matches_as_in_python(text, name):
    for tried in (text, f"(?!{text})a*"):
        try:
            found, wanted = Expression.of(tried), re.compile(tried)
        except re.error:
            continue
        assert found.match(name) == (wanted.match(name) is not None), tried


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["(([a-z._0-9]+)+)+!", "(?!(.*)*!)(a|a)*b", ".*.*.*.*.*.*.*.*.*.*!", "(x+x+)+y" * 50])
def test_no_expression_takes_long(text):
    found = Expression.of(text)
    assert not any(found.match(name * 100) for name in NAMES if name)


@pytest.mark.parametrize(
    "text", ["(a", "(?!a", "a" * 3000, r"(a)\1", "(?!x)a|b", "(?<=a)b", "((a{100}){100}){100}", "[", "*"]
)
def test_what_is_damaged_or_cannot_be_read_is_an_error(text):
    with pytest.raises(re.error):
        Expression.of(text)


@pytest.mark.parametrize(
    "other",
    [
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj",
        "model.vision_model.encoder.layers.0.self_attn.q_proj",
        "audio_tower.layers.0.self_attn.q_proj",
        "mtp.layers.0.self_attn.q_proj",
        "multi_modal_projector.layers.0.self_attn.q_proj",
        "talker.model.layers.0.self_attn.q_proj",
        "model.layers.1.",
        "vision_tower.layers.*",
        "mtp.layers.0*",
    ],
)
def test_layers_of_another_part_are_none_of_the_text_model(other: str) -> None:
    names = module_names("self_attn.q_proj", 0)
    assert not Modules.of([other]).match(names)
    for text in ("model.layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn", "backbone.layers.0*"):
        assert Modules.of([other, text]).match(names)


def test_a_dot_at_the_end_closes_a_name() -> None:
    one = Modules.of(["model.layers.1.", "mlp.gate."])
    assert one.match(module_names("self_attn.q_proj", 1))
    assert not one.match(module_names("self_attn.q_proj", 10))
    assert one.match(module_names("mlp.gate", 3))
    assert not one.match(module_names("mlp.gate_proj", 3))
