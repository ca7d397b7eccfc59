import hashlib
import itertools
import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from pytest_longctx.deployments import models, random_models, trained_model
from pytest_longctx.deployments.deployment import Model
from pytest_longctx.errors import ModelError
from pytest_longctx.probe import checkpoint

TINY = Model(name="tiny", make="tiny-llama4", weights="random")


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGCTX_HOME", str(tmp_path / "kept"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def folder_with_config(folder: Path, text: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


def test_a_made_model_is_a_folder_of_its_own_in_what_is_kept(tmp_path):
    located = models.locate(TINY)
    folder = tmp_path / "kept" / "models" / "tiny-llama4"
    assert located == str(folder)
    assert {name: type(json.loads(text)) for name, text in content(folder).items()} == {
        "config.json": dict,
        "tokenizer.json": dict,
        "tokenizer_config.json": dict,
        "generation_config.json": dict,
    }


def test_a_model_that_is_made_again_is_the_same(tmp_path):
    folder = tmp_path / "kept" / "models" / "tiny-llama4"
    models.locate(TINY)
    before = content(folder)
    (folder / "config.json").write_text("cut off", encoding="utf-8")
    models.locate(TINY)
    assert content(folder) == before


@pytest.mark.parametrize("name", sorted(set(models.MADE) - set(trained_model.MADE)))
def test_every_generated_model_is_a_checkpoint(tmp_path, name):
    models.MADE[name](tmp_path / "made")
    assert (tmp_path / "made" / "config.json").is_file()
    assert (tmp_path / "made" / "tokenizer.json").is_file()


def test_the_tiny_models_parts_fit_together():
    config = random_models.TINY_LLAMA4
    assert config["num_attention_heads"] * config["head_dim"] == config["hidden_size"]
    assert len(config["no_rope_layers"]) == config["num_hidden_layers"]
    assert config["no_rope_layers"][3::4] == [0]
    assert config["max_position_embeddings"] >= 10_000_000
    assert max(config[f"{name}_token_id"] for name in ("bos", "eos", "pad")) < random_models.TINY_SPECIAL_TOKENS


@pytest.mark.parametrize("vocabulary", [16, 17, random_models.TINY_VOCABULARY])
def test_every_id_is_a_word_without_spaces_and_the_first_are_special(vocabulary):
    tokenizer = checkpoint.word_level_tokenizer([f"w{i}" for i in range(vocabulary)], random_models.TINY_SPECIAL_TOKENS)
    words = tokenizer["model"]["vocab"]
    assert sorted(words.values()) == list(range(vocabulary))
    assert all(word.strip() and len(word.split()) == 1 for word in words)
    assert {each["content"]: each["id"] for each in tokenizer["added_tokens"]} == {
        word: i for word, i in words.items() if i < random_models.TINY_SPECIAL_TOKENS
    }
    assert all(each["special"] for each in tokenizer["added_tokens"])
    assert tokenizer["model"]["unk_token"] in words


def test_the_files_of_the_tiny_model_agree_about_its_special_tokens(tmp_path):
    random_models.make_tiny_llama4(tmp_path)
    config, generation, tokenizer, words = (
        json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("config", "generation_config", "tokenizer_config", "tokenizer")
    )
    ids = {name: config[f"{name}_token_id"] for name in ("bos", "eos", "pad")}
    assert {name: generation[f"{name}_token_id"] for name in ids} == ids
    assert {name: words["model"]["vocab"][tokenizer[f"{name}_token"]] for name in ids} == ids


def test_an_unknown_made_model_is_refused_with_the_nearest():
    with pytest.raises(ModelError, match="unknown made model 'tiny-lama4': did you mean 'tiny-llama4'"):
        models.locate(Model(name="m", make="tiny-lama4"))


def test_a_path_is_the_folder_it_leads_to(tmp_path, monkeypatch):
    folder = folder_with_config(tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in (str(folder), "~/model", "model"):
        assert models.locate(Model(name="m", path=path)) == str(folder.resolve())


@pytest.mark.parametrize(("made", "reason"), [(False, "no such folder"), (True, "no such file")])
def test_a_path_without_a_model_says_what_was_checked(tmp_path, made, reason):
    folder = tmp_path / "model"
    if made:
        folder.mkdir()
    with pytest.raises(ModelError, match=f"checked +{folder / 'config.json'} \\({reason}\\)"):
        models.locate(Model(name="m", path=str(folder)))


@pytest.mark.parametrize(
    ("model", "located"),
    [(Model(name="m", id="org/model"), "org/model"), (Model(name="org/model"), "org/model")],
)
def test_a_name_is_left_to_the_engine(model, located):
    assert models.locate(model) == located


def test_a_fingerprint_names_the_model_its_weights_and_its_config(tmp_path):
    folder = folder_with_config(tmp_path / "model", '{"a": 1}')
    digest = hashlib.sha256(b'{"a": 1}').hexdigest()[:12]
    assert models.fingerprint(TINY, str(folder)) == f"tiny (random weights, config {digest})"


def test_a_fingerprint_without_a_config_claims_none():
    assert models.fingerprint(Model(name="m", id="org/model"), "org/model") == "m (real weights)"


def test_another_config_is_another_fingerprint(tmp_path):
    one, other = folder_with_config(tmp_path / "a", "{}"), folder_with_config(tmp_path / "b", "{ }")
    assert models.fingerprint(TINY, str(one)) != models.fingerprint(TINY, str(other))


def test_the_weights_of_the_random_model_are_the_same_each_time_and_differ_from_each_other(tmp_path):
    for name in ("one", "two"):
        random_models.make_random_gqa(tmp_path / name)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    tensors = load_file(tmp_path / "one" / "model.safetensors")
    shapes = {name: (rows, columns) for name, rows, columns in random_models._llama_shapes(random_models.RANDOM_GQA)}
    assert {name: tensor.shape for name, tensor in tensors.items() if tensor.ndim == 2} == shapes
    keys = [tensors[f"model.layers.{layer}.self_attn.k_proj.weight"].astype("float32") for layer in range(4)]
    assert all(abs(one - other).max() > 0.1 for one, other in itertools.combinations(keys, 2))
