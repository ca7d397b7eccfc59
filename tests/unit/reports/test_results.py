import json
import os
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from pytest_longctx.errors import ResultsError
from pytest_longctx.reports.properties import Entry
from pytest_longctx.reports.results import NAME, SCHEMA, Writer, now, read

ENTRY = Entry(
    "TT-0001", "holds", title="a title", status="confirmed", measured={"ttft_s": 0.25}, server={"deployment": "tiny"}
)
HEADER = {"backend": "vllm", "machine": MappingProxyType({"host_cpu": "x"})}


def write(folder: Path, *entries: Entry) -> Path:
    """Write a complete file and return its path."""
    writer = Writer(folder, HEADER)
    writer.boot({"outcome": "serves"})
    for entry in entries:
        writer.verdict("test_x.py::test_x", "passed", 0.12345678, entry)
    writer.close(0)
    return writer.path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_what_was_written_is_read(tmp_path):
    path = write(tmp_path / "new" / "folder", ENTRY)
    found = read(path)
    assert read(str(path)) == found
    assert (found.header["backend"], found.header["machine"]) == ("vllm", {"host_cpu": "x"})
    assert found.footer["exit_code"] == 0
    assert found.boots == [{"kind": "boot", "outcome": "serves"}]
    (verdict,) = found.verdicts
    assert verdict["test"] == "test_x.py::test_x"
    assert (verdict["finding"], verdict["verdict"], verdict["measured"]) == ("TT-0001", "holds", {"ttft_s": 0.25})
    assert (verdict["server"], verdict["duration_s"]) == ({"deployment": "tiny"}, 0.123457)


def test_a_file_opens_with_its_schema_and_ends_with_its_sum(tmp_path):
    found = rows(write(tmp_path, ENTRY, ENTRY, Entry("TT-0002", "broken")))
    assert [row["kind"] for row in found] == ["header", "boot", "verdict", "verdict", "verdict", "footer"]
    assert found[0]["schema"] == SCHEMA
    assert (found[-1]["exit_code"], found[-1]["verdicts"]) == (0, {"holds": 2, "broken": 1})


def test_each_line_is_on_disk_before_the_next(tmp_path):
    writer = Writer(tmp_path, HEADER)
    counts = [len(rows(writer.path))]
    writer.boot({})
    counts.append(len(rows(writer.path)))
    writer.verdict("t", "passed", 0.0, ENTRY)
    counts.append(len(rows(writer.path)))
    writer.close(0)
    assert counts == [1, 2, 3]


def test_words_of_any_language_stay_on_their_line(tmp_path):
    strange = "two\nlines\u2028and\x85more \udce9"
    (verdict,) = read(write(tmp_path, Entry("TT-0001", "broken", why=strange))).verdicts
    assert verdict["why"] == r"two\nlines\u2028and\x85more \udce9".replace(r"\n", "\n")  # visible, not raw


def test_an_earlier_file_is_kept_under_its_time(tmp_path):
    first = write(tmp_path, ENTRY)
    os.utime(first, (1_000_000_000, 1_000_000_000))
    second = write(tmp_path)
    assert second == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.20010909T014640Z.jsonl", NAME]
    assert len(read(tmp_path / "results.20010909T014640Z.jsonl").verdicts) == 1


def test_files_of_one_second_are_all_kept(tmp_path):
    for _ in range(3):
        os.utime(write(tmp_path, ENTRY), (1_000_000_000, 1_000_000_000))
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be a results file of schema 1"),
        ('{"kind": "boot"}\n', "its first line must be the header"),
        ('{"kind": "header", "schema": 0}\n{"kind": "footer"}\n', "must be a results file of schema 1"),
        ('{"kind": "header", "schema": 1}\n', "the footer is missing: the run was cut off after 0 lines"),
        ('{"kind": "header", "schema": 1}\n{"kind": "boot"}\n', "the run was cut off after 1 lines"),
        ('{"kind": "header", "schema": 1}\n{"kind": "bo', "the run was cut off after 0 lines"),
        ('{"kind": "header", "schema": 1}\n{"kind": "bo\n{"kind": "footer"}', "Unterminated string"),
        ('{"kind": "header", "schema": 1}\n{"kind": "vitals"}\n{"kind": "footer"}', "'vitals' lacks at_s, figures"),
        ("[1]\n", "must be a results file"),
        ("not JSON", "Expecting value"),
    ],
)
def test_what_is_no_whole_results_file_is_refused(tmp_path, text, complaint):
    path = tmp_path / NAME
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ResultsError, match=complaint) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_what_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / NAME
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ResultsError, match=NAME):
        read(path)


def test_times_have_their_zone():
    assert datetime.fromisoformat(now()).utcoffset() is not None
