"""One table of words or two, as vLLM 0.32's class of each multimodal model makes them."""

import json
from pathlib import Path

import pytest

from pytest_longctx.shapes import ModelShape, read
from pytest_longctx.shapes.families.tied_embeddings import tie

KEY = "tie_word_embeddings"
THIRD = json.loads((Path(__file__).parent.parent.parent / "data/shapes/unseen_third.json").read_text(encoding="utf-8"))
SEEN = {
    # Whether there is one table for (whole, text): each of None, True, False, in this order.
    "qwen3_vl": "FTF TTT FFF",
    "llava_next": "FTF TTT FFF",
    "idefics3": "FTF TTT FFF",
    "llama4": "FTF TTT FFF",
    "gemma3": "TTF TTT FFF",
    "gemma4": "TTF TTT FFF",
    "internvl": "TTF TTT FFF",
    "mistral3": "TTF TTT FFF",
    "llava": "FTF TTT FTF",
    "llava_onevision": "FTF TTT FTF",
    "glm4v": "FTF TTT FTF",
    "qwen2_vl": "FTF TTT FTF",
    "smolvlm": "FTF FTF FTF",
    "qwen3_5_moe": "FTF FTF FTF",
    "internvl_chat": "?TF TTT FFF",
    "qwen2_5_omni": "?TF TTT FFF",
    "cohere2_vision": "TTT TTT TTT",
    "lfm2_vl": "TTT TTT TTT",
    "glm4v_moe": "FFF FFF FFF",
}
"""
What vLLM 0.32's classes built on the meta device; ? is left to the text model's class. Where only the text part speaks, the
first eight do not listen to it, as they did with transformers 4; the file is believed.
"""


def only(value: bool | None) -> dict[str, bool]:  # the value of the key
    return {} if value is None else {KEY: value}


@pytest.mark.parametrize("kind", SEEN)
def test_the_tables_are_those_of_the_class(kind: str) -> None:
    found = [
        [tie(kind, only(whole), only(text)).get(KEY) for text in (None, True, False)] for whole in (None, True, False)
    ]
    shown = " ".join("".join("?" if each is None else "FT"[each] for each in row) for row in found)
    assert shown == SEEN[kind]


def test_a_text_part_that_ties_is_overruled_by_the_whole() -> None:
    config = THIRD["maxtext-qwen3_vl_30b_a3b"]["config"]
    assert (config[KEY], config["text_config"][KEY]) == (False, True)
    two, one = read(config), read({**config, KEY: True})
    assert isinstance(two, ModelShape)
    assert isinstance(one, ModelShape)
    assert two.parameters - one.parameters == 151_936 * 2048


@pytest.mark.parametrize(
    ("name", "words"), [("qwen3-next-80b", 2), ("gpt-oss-20b", 2), ("command-r", 1), ("gemma-2-9b", 1)]
)
def test_some_classes_of_text_models_do_not_look(name: str, words: int) -> None:
    models = json.loads((Path(__file__).parent.parent.parent / "data/shapes/models.json").read_text(encoding="utf-8"))
    config = models[name]["config"]
    shapes = [read({**config, KEY: value}) for value in (True, False)]
    sizes = {shape.parameters for shape in shapes if isinstance(shape, ModelShape)}
    assert sizes == {models[name]["counted"]}
    assert words == sum(t.rows == config["vocab_size"] for shape in shapes[:1] for t in shape.outside)  # type: ignore[union-attr]
