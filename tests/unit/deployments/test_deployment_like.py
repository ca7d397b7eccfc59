from pathlib import Path

import pytest

from pytest_longctx import paths
from pytest_longctx.deployments.deployment import load, load_all
from pytest_longctx.errors import TableError

BASE = """
name = "one"
title = "one"
backend = "vllm"
only_named = true
model.name = "m"
flags = { dtype = "bfloat16", max-num-seqs = 8 }
env = { A = "1" }
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


def test_a_deployment_takes_what_it_does_not_say_from_the_one_it_is_like(tmp_path):
    other = 'name = "other"\ntitle = "o"\nlike = "one"\nflags = { dtype = "float16", swap = 1 }\n'
    found = load_all((write(tmp_path, one=BASE, other=other),))
    assert found["other"].title == "o"
    assert found["other"].flags == {"dtype": "float16", "max-num-seqs": 8, "swap": 1}
    assert (found["other"].env, found["other"].only_named) == ({"A": "1"}, True)
    assert found["one"].flags == {"dtype": "bfloat16", "max-num-seqs": 8}


def test_a_name_is_not_taken_over(tmp_path):
    write(tmp_path, one=BASE, other='like = "one"\n')
    with pytest.raises(TableError, match=r"the name is 'one'; rename the file to one\.toml"):
        load_all((tmp_path,))


@pytest.mark.parametrize(
    ("like", "complaint"),
    [("none", "none.toml: file not found"), ("two", "two is itself like 'one'; name that deployment")],
)
def test_a_deployment_is_only_like_one_that_says_it_all(tmp_path, like, complaint):
    write(
        tmp_path, one=BASE, two='name = "two"\ntitle = "t"\nlike = "one"\n', three=f'name = "three"\nlike = "{like}"\n'
    )
    with pytest.raises(TableError, match=complaint):
        load(tmp_path / "three.toml")


def test_a_deployment_of_a_project_may_be_like_a_shipped_one_of_another_folder(tmp_path):
    write(tmp_path, mine='name = "mine"\ntitle = "mine"\nlike = "cpu-paths"\nflags = { dtype = "float32" }\n')
    made, shipped = load(tmp_path / "mine.toml"), load(paths.suites() / "deployments" / "cpu-paths.toml")
    assert made.flags == {**shipped.flags, "dtype": "float32"}
    assert (made.env, made.model) == (shipped.env, shipped.model)


def test_the_own_folder_comes_before_the_shipped_deployments(tmp_path):
    mine = 'name = "mine"\ntitle = "mine"\nlike = "cpu-paths"\n'
    write(tmp_path, mine=mine, **{"cpu-paths": BASE.replace('name = "one"', 'name = "cpu-paths"')})
    assert load(tmp_path / "mine.toml").env == {"A": "1"}


def test_a_wrong_key_is_named_with_the_file_that_was_read(tmp_path):
    write(tmp_path, one=BASE, other='name = "other"\nlike = "one"\nflaks = { a = 1 }\n')
    with pytest.raises(TableError, match=r"other.toml: flaks: unknown key 'flaks': did you mean 'flags'"):
        load(tmp_path / "other.toml")
