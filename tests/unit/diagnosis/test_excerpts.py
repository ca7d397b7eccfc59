"""
Failing excerpts of public threads that no labelled log is from, collected as development data.

Their classes were written down before the rules first read them, by the person who then mended the rules: a list of words, and no score on logs.
"""

import json

import pytest

from pytest_longctx.backends import catalogues, every_catalogue
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.log_file import read
from tests.unit.diagnosis.corpus import FOLDER

CATALOGUES = catalogues()
ALL = every_catalogue()
EXCERPTS = [json.loads(line) for line in (FOLDER.parent / "excerpts.jsonl").read_text().splitlines()]


def kind_of(excerpt) -> str:
    text = excerpt["text"]
    if excerpt["frame"]:
        file, _, function = excerpt["frame"].partition(":")
        frame = f'  File "/usr/local/lib/python3.12/dist-packages/{file}", line 7, in {function}'
        text = f"Traceback (most recent call last):\n{frame}\n    f()\n{text}"
    found = assess(read([f"{text}\n".encode()], CATALOGUES.get(excerpt["engine"], ALL)), Evidence(exit_code=1))[1]
    return "none" if found is None or found.kind == "unknown" else found.kind


@pytest.mark.parametrize("excerpt", EXCERPTS, ids=[each["thread"] for each in EXCERPTS])
def test_a_claim_on_an_excerpt_is_right(excerpt):
    kind = kind_of(excerpt)
    assert kind in (*excerpt["right"], "none")
    assert (kind == "none" and "none" not in excerpt["right"]) == excerpt.get("missed", False)


def test_most_excerpts_have_a_right_answer():
    assert len(EXCERPTS) >= 150
    assert sum(not each.get("missed", False) for each in EXCERPTS) >= 0.95 * len(EXCERPTS)
