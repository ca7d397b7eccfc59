from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx import toml
from pytest_longctx.deployments.deployment import Deployment, Model, Timeouts, attached, load_all, load_deployments
from pytest_longctx.errors import TableError, UsageError
from tests.unit import factories


def write(folder: Path, name: str, file: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    text = f'name = "{name}"\ntitle = "t"\nbackend = "vllm"\nmodel.name = "m"\n'
    (folder / f"{file or name}.toml").write_text(text, encoding="utf-8")
    return folder


def test_a_deployment_that_leaves_everything_out_is_for_every_finding_and_must_hold_its_context():
    plain = factories.deployment()
    assert (plain.only_named, plain.needs_full_context) == (False, True)
    assert (plain.hardware, plain.max_model_len, plain.longest_prompt, plain.model.weights) == (
        None,
        None,
        None,
        "real",
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, ("--flag",)),
        (False, ()),
        (1, ("--flag", "1")),
        (0, ("--flag", "0")),
        (0.9, ("--flag", "0.9")),
        ("two words", ("--flag", "two words")),
        ("", ("--flag", "")),
    ],
)
def test_a_flag_becomes_words_of_the_command_line(value, words):
    assert factories.deployment(flags={"flag": value}).arguments() == words


def test_flags_keep_their_order():
    assert factories.deployment(flags={"b": 1, "a": True, "c": "x"}).arguments() == ("--b", "1", "--a", "--c", "x")


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}])
def test_a_flag_that_is_neither_word_nor_number_is_refused(value):
    with pytest.raises(TableError, match=r"a deployment: flags\.f"):
        factories.deployment(flags={"f": value})


@pytest.mark.parametrize("origins", [("make", "path"), ("path", "id"), ("make", "path", "id")])
def test_a_model_has_one_origin(origins):
    with pytest.raises(TableError, match="exactly one of make, path and id"):
        toml.check({"name": "m", **dict.fromkeys(origins, "x")}, Model, "a model")


@pytest.mark.parametrize("ids", [[0, 1], [5, 5], [9, 3], [-1, 9]])
def test_ordinary_ids_must_hold_two_ids(ids):
    with pytest.raises(TableError, match="has fewer than two ids"):
        factories.deployment(model={"name": "m", "ordinary_ids": ids})


def test_ordinary_ids_may_be_as_narrow_as_two():
    assert factories.deployment(model={"name": "m", "ordinary_ids": [0, 2]}).model.ordinary_ids == (0, 2)


@pytest.mark.parametrize("ids", [["16", "4096"], [16], [16, 20, 30]])
def test_ordinary_ids_are_two_integers(ids):
    with pytest.raises(TableError, match="ordinary_ids"):
        factories.deployment(model={"name": "m", "ordinary_ids": ids})


@pytest.mark.parametrize(("written", "kept"), [("8xh200", "8xH200"), ("H200", "1xH200"), ("CPU", "cpu")])
def test_hardware_is_kept_in_one_spelling(written, kept):
    assert factories.deployment(hardware=written).hardware == kept


def test_unknown_hardware_is_refused_with_the_known_kinds():
    with pytest.raises(TableError, match=r"hardware: '8xH201' must be hardware.*H200"):
        factories.deployment(hardware="8xH201")


@pytest.mark.parametrize("name", ["", "Tiny", "-tiny", "a b", "a/b", "a_b"])
def test_a_name_is_fit_for_a_file_and_a_test_id(name):
    with pytest.raises(TableError, match="a deployment: name"):
        factories.deployment(name=name)


def test_the_deadline_of_a_request_is_the_sum_of_its_parts():
    limits = Timeouts(answer_s=7.0, slowest_prefill_tokens_per_s=100.0, slowest_decode_tokens_per_s=0.25)
    assert limits.request_s(1000, 3) == 7 + 10 + 12


@given(st.integers(1, 10**7), st.integers(1, 10**4), st.integers(0, 10**6), st.integers(0, 10**3))
def test_more_tokens_never_get_less_time(prompt, output, more_prompt, more_output):
    limits = Timeouts()
    assert limits.request_s(prompt + more_prompt, output + more_output) >= limits.request_s(prompt, output) > 0


def test_of_an_attached_server_nothing_is_claimed():
    found = attached("openai")
    assert found.backend == "openai"
    assert found.model.weights == "unknown"
    assert (found.hardware, found.version, found.max_model_len, found.flags) == (None, None, None, {})


def test_every_folder_is_read_and_everything_but_toml_left_alone(tmp_path):
    write(tmp_path / "a", "one")
    write(tmp_path / "b", "two")
    (tmp_path / "a" / "notes.txt").write_text("not TOML", encoding="utf-8")
    found = load_all((tmp_path / "b", tmp_path / "a", tmp_path / "missing"))
    assert {name: type(one) for name, one in found.items()} == {"one": Deployment, "two": Deployment}


def test_a_file_is_called_after_its_deployment(tmp_path):
    with pytest.raises(TableError, match=r"two\.toml: the name is 'one'; rename the file to one\.toml"):
        load_all((write(tmp_path / "a", "one", file="two"),))


def test_a_name_is_given_once(tmp_path):
    folders = write(tmp_path / "a", "one"), write(tmp_path / "b", "one")
    with pytest.raises(TableError, match=r"b/one\.toml: there is another deployment called 'one'"):
        load_all(folders)


def test_a_project_s_own_deployments_come_beside_those_that_ship(tmp_path):
    shipped = load_deployments()
    assert "h200x4-scout-vllm-10m" in shipped
    write(tmp_path / "deployments", "mine")
    for folder in (tmp_path, str(tmp_path)):
        assert load_deployments(folder).keys() - shipped.keys() == {"mine"}


def test_what_is_no_folder_of_data_is_refused(tmp_path):
    with pytest.raises(UsageError, match="load_deployments: folder not found"):
        load_deployments(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"load_deployments: .* has none of findings/, deployments/"):
        load_deployments(tmp_path)
