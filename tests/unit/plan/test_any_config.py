"""Any config.json is a prediction or a refusal, never a traceback."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_longctx.backends import flags
from pytest_longctx.deployments.command import Start
from pytest_longctx.plan import answer
from pytest_longctx.plan.boots import foresee
from pytest_longctx.plan.place import Place
from pytest_longctx.plan.planned_server import Given, of_start

MODELS = json.loads((Path(__file__).parent.parent.parent / "data/shapes/models.json").read_text())
CONFIGS = {name: row["config"] for name, row in MODELS.items() if isinstance(row, dict) and "config" in row}
KEYS = sorted({key for config in CONFIGS.values() for key in config})
PLACE = Place.parse("8xH200", host_bytes=512 * 2**30)

ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["llama", "yarn", "default", "qwen3_moe", "deepseek_v3", "fp8"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*KEYS, "rope_type", "factor", "original_max_position_embeddings"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
LINES = {
    "vllm": ("M", "--max-model-len", "auto", "-tp", "2"),
    "sglang": ("--model-path", "M", "--tp", "2", "--context-length", "1M"),
}


def check(config, engine):
    read = of_start(Start(engine, LINES[engine]), Given())
    boot = foresee(type(read)(**{**vars(read), "config": config, "memory": {}}), PLACE)
    found = answer.of(boot)
    assert boot.refusals or boot.prediction is not None or boot.unpredicted
    assert json.dumps(found.as_json(), default=str)
    assert "\n" not in "".join(found.lines())


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_each_config_at_hand_has_an_answer(name, engine):
    check(CONFIGS[name], engine)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(CONFIGS)),
    st.dictionaries(st.sampled_from(KEYS), ANY, min_size=1, max_size=3),
    st.sampled_from(sorted(LINES)),
)
def test_any_values_of_any_keys_have_an_answer(name, changes, engine):
    check({**CONFIGS[name], **changes}, engine)


@settings(max_examples=60)
@given(ANY, st.sampled_from(sorted(LINES)))
def test_any_json_has_an_answer(config, engine):
    check({} if config is None else config, engine)


NUMBERS = st.sampled_from(["0", "-1", "-7", "1", "3", "8", "100000", "1e9", "0.0", "2.5", "auto", "nan", "{}", ""])


@settings(max_examples=80)
@given(st.data(), st.sampled_from(sorted(LINES)))
def test_any_values_of_any_flags_have_an_answer(data, engine):
    row = of_start(Start(engine, LINES[engine]), Given()).row
    names = data.draw(st.lists(st.sampled_from(sorted(row.command_line["flags"])), max_size=4))
    words = [word for name in names for word in (f"--{name}={data.draw(NUMBERS)}",) if name != "config"]
    asked = of_start(Start(engine, (*LINES[engine], *words)), Given())
    assert set(asked.flags) <= set(flags.read(row, [*LINES[engine], *words]).flags)
    boot = foresee(type(asked)(**{**vars(asked), "config": CONFIGS["qwen3-30b-a3b"], "memory": {}}), PLACE)
    assert list(answer.of(boot).lines())
