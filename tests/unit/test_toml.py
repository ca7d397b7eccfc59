from pathlib import Path
from typing import Annotated, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from pytest_longctx import toml
from pytest_longctx.errors import TableError
from pytest_longctx.findings.finding import Finding
from pytest_longctx.toml import LISTED, Names, Table, VersionRange, in_range


class Row(Table):
    reference: float | None = None
    unit: str = ""


class Inner(Table):
    depth: int = 0
    rows: dict[str, Row] = Field(default_factory=dict)


class Outer(Table):
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None
    rows: dict[str, Row] = Field(default_factory=dict)
    lines: Annotated[tuple[Row, ...], LISTED] = ()
    names: Names = ()
    version: VersionRange | None = None

    @model_validator(mode="after")
    def _no_nobody(self) -> Self:
        if self.name == "nobody":
            raise ValueError("nobody is no name")
        return self


@pytest.fixture
def file(tmp_path):
    return tmp_path / "some.toml"


def complaints(file: Path, text: str) -> list[str]:
    """Return the errors of *text* as an `Outer`, without the file name in front of each line."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TableError) as caught:
        toml.load(file, Outer)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    return [line.removeprefix(f"{file}: ") for line in lines]


def test_a_good_file_becomes_a_value(file):
    file.write_text(
        'name = "é"\nnames = ["a", "b"]\nversion = ">=1,<2"\n[inner]\ndepth = 3\n[rows.x]\nreference = 1\n[[lines]]\nunit = "s"\n',
        encoding="utf-8",
    )
    found = toml.load(file, Outer)
    assert found.version == ">=1,<2"
    assert found == Outer(
        name="é",
        names=("a", "b"),
        version=">=1,<2",
        inner=Inner(depth=3),
        rows={"x": Row(reference=1.0)},
        lines=(Row(unit="s"),),
    )


@pytest.mark.parametrize(
    ("text", "place", "near"),
    [
        ('nmae = "n"', "nmae", "name"),
        ("inner.dpeth = 1", "inner.dpeth", "depth"),
        ("maybe.dpeth = 1", "maybe.dpeth", "depth"),
        ("rows.ttft_s.refernce = 1", "rows.ttft_s.refernce", "reference"),
        ("inner.rows.ttft_s.refernce = 1", "inner.rows.ttft_s.refernce", "reference"),
        ("lines = [{}, {refernce = 1}]", "lines.1.refernce", "reference"),
    ],
)
def test_an_unknown_key_names_its_place_and_the_nearest_known_one(file, text, place, near):
    (line,) = complaints(file, text if text.startswith("nmae") else f'name = "n"\n{text}')[-1:]
    assert line.startswith(f"{place}: unknown key {place.rpartition('.')[2]!r}: did you mean {near!r}? Known: ")


def test_an_unknown_key_of_a_bound_names_the_nearest_key_of_bounds(file):
    file.write_text("[bounds.ttft_s]\nrefernce = 1.0\n", encoding="utf-8")
    with pytest.raises(
        TableError, match=r"bounds\.ttft_s\.refernce: unknown key 'refernce': did you mean 'reference'\?"
    ):
        toml.load(file, Finding)


def test_a_key_unlike_any_other_gets_the_list_alone(file):
    (line,) = complaints(file, 'name = "n"\ninner.zzz = 1')
    assert line == "inner.zzz: unknown key 'zzz'. Known: depth, rows"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "name: is required and missing"),
        ("name = 1", "name: Input should be a valid string (found 1)"),
        ('name = "n"\ninner.depth = "1"', "inner.depth: Input should be a valid integer (found '1')"),
        ('name = "n"\ninner.depth = true', "inner.depth: Input should be a valid integer (found True)"),
        ('name = "n"\nnames = ["a", 2]', "names.1: Input should be a valid string (found 2)"),
        ('name = "n"\nversion = "12"', "version: '12' must be a version range, for example '>=0.12,<0.14'"),
        ('name = "n"\nnames = 5', "names: Input should be a valid tuple (found 5)"),
        ('name = "nobody"', "nobody is no name"),
    ],
)
def test_a_missing_key_and_a_wrong_value_name_their_place(file, text, line):
    assert complaints(file, text) == [line]


def test_every_fault_of_a_file_is_told_at_once(file):
    assert len(complaints(file, "nmae = 1\ninner.depth = 0.5")) == 3


def test_a_file_that_is_no_toml_says_where(file):
    (line,) = complaints(file, "name = \n")
    assert line.startswith("not valid TOML: ")
    assert "line 1" in line


def test_a_file_that_is_no_text_is_no_toml(file):
    file.write_bytes(b'name = "\xff"')
    with pytest.raises(TableError, match=f"{file}: not valid TOML"):
        toml.load(file, Outer)


def test_a_missing_file_is_named(file):
    with pytest.raises(TableError, match=f"{file}: file not found"):
        toml.load(file, Outer)


def test_a_table_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Inner().depth = 1  # type: ignore[misc]


@pytest.mark.parametrize("names", ["one", ["one"], ("one",)])
def test_one_name_is_as_good_as_a_list_of_one(names):
    assert toml.check({"name": "n", "names": names}, Outer, "here").names == ("one",)


@pytest.mark.parametrize(
    ("version", "wanted", "inside"),
    [
        ("0.12.0", "==0.12.*", True),
        ("0.12.0+cu130", "==0.12.0", True),
        ("0.12.1rc2", "==0.12.*", True),
        ("0.13.0rc1", "<0.13", False),
        ("0.13.0", "==0.12.*", False),
        ("0.5.6.post2", ">=0.5.6,<0.5.7", True),
        ("0.5.7", ">=0.5.6,<0.5.7", False),
        ("1.10", ">=1.9", True),
    ],
)
def test_a_version_is_in_a_range_or_not(version, wanted, inside):
    assert in_range(version, wanted) is inside


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True))
def test_a_local_part_changes_nothing(major, minor, micro, local):
    version = f"{major}.{minor}.{micro}"
    assert in_range(f"{version}+{local}", f"=={version}")
    assert not in_range(f"{version}+{local}", f">{version}")
