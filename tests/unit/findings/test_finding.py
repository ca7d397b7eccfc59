import datetime as dt
from pathlib import Path
from typing import get_args

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx import toml
from pytest_longctx.errors import TableError
from pytest_longctx.findings.ask import Ask, questions
from pytest_longctx.findings.finding import Finding, Status, load_all, load_findings
from pytest_longctx.findings.markers import LENGTHS, THEMES
from pytest_longctx.measures import MEASURES
from tests.unit import factories

FIGURES = st.floats(-1e12, 1e12)

TOML = """
id = "{id}"
title = "t"
question = "boots"
markers = "boot"
status = "confirmed"
reviewed = 2026-01-02
source.document = "d"
"""


def write(folder: Path, name: str, finding_id: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.toml").write_text(TOML.format(id=finding_id), encoding="utf-8")
    return folder


def test_a_finding_that_leaves_everything_out_holds_everywhere_and_expects_service():
    plain = factories.finding()
    assert (plain.scope.backend, plain.scope.version, plain.scope.hardware) == ((), None, None)
    assert (plain.expect.outcome, plain.expect.phase, plain.expect.signature) == ("serves", None, None)
    assert (plain.bounds, plain.known) == ({}, None)


@pytest.mark.parametrize(
    ("content", "limits"),
    [
        ({}, (None, None)),
        ({"reference": 2.0}, (None, None)),
        ({"exactly": 3}, (3, 3)),
        ({"at_least": 1.5}, (1.5, None)),
        ({"at_most": 4.0}, (None, 4.0)),
        ({"at_least": 1.0, "at_most": 1.0}, (1.0, 1.0)),
        ({"reference": 2.0, "at_most": 4.0}, (None, 4.0)),
        ({"reference": 200.0, "tolerance": "5%", "because": "b"}, (190.0, 210.0)),
        ({"reference": -200.0, "tolerance": "5%", "because": "b"}, (-210.0, -190.0)),
        ({"reference": 2.5, "tolerance": "0.5", "because": "b"}, (2.0, 3.0)),
        ({"reference": 2.5, "stderr": 0.25, "sigmas": 2, "because": "b"}, (2.0, 3.0)),
        ({"reference": 2.5, "tolerance": "0", "because": "b"}, (2.5, 2.5)),
    ],
)
def test_limits_are_absolute(content, limits):
    assert factories.bound(**content).limits == limits


@given(FIGURES, st.integers(0, 500), st.sampled_from(["", "%", ".25", ".5%"]))
def test_a_reference_lies_inside_its_tolerance_with_as_much_room_on_either_side(reference, number, rest):
    low, high = factories.bound(reference=reference, tolerance=f"{number}{rest}", because="b").limits
    assert low is not None
    assert high is not None
    assert low <= reference <= high
    assert high - reference == pytest.approx(reference - low, abs=1e-3)


@given(FIGURES, FIGURES)
def test_limits_that_cross_are_refused(one, other):
    low, high = sorted((one, other))
    assert factories.bound(at_least=low, at_most=high).limits == (low, high)
    if low < high:
        with pytest.raises(TableError, match="no value can be both at least"):
            factories.bound(at_least=high, at_most=low)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"tolerance": "5%", "because": "b"}, "a tolerance needs a reference"),
        ({"reference": 1.0, "tolerance": "5%"}, "a tolerance needs `because`"),
        ({"reference": 1.0, "stderr": 0.1, "because": "b"}, "stderr and sigmas go together"),
        ({"stderr": 0.1, "sigmas": 2, "because": "b"}, "stderr and sigmas go together and need a reference"),
        ({"reference": 1.0, "stderr": 0.1, "sigmas": 2}, "a tolerance needs `because`"),
        ({"reference": 1.0, "stderr": 0.1, "sigmas": 2, "at_most": 3.0, "because": "b"}, "give only one of"),
        ({"reference": 1.0, "tolerance": "-5%", "because": "b"}, "tolerance: String should match"),
        ({"reference": 1.0, "tolerance": "5 %", "because": "b"}, "tolerance: String should match"),
        ({"reference": 1.0, "tolerance": 5, "because": "b"}, "tolerance: Input should be a valid string"),
        ({"exactly": "1"}, "exactly: Input should be a valid number"),
        ({"runs": 0}, "runs: Input should be greater than or equal to 1"),
    ],
)
def test_a_bound_that_cannot_be_meant_is_refused(content, complaint):
    with pytest.raises(TableError, match=complaint):
        factories.bound(**content)


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_can_be_bounded_in_its_own_unit(name):
    unit = MEASURES[name].unit
    assert factories.finding(bounds={name: {"unit": unit, "exactly": 1}}).bounds[name].limits == (1, 1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"bounds": {"tft_s": {"unit": "s"}}}, "bounds: unknown measure 'tft_s': did you mean 'ttft_s'?"),
        ({"bounds": {"ttft_s": {"unit": "ms"}}}, r"bounds\.ttft_s\.unit: 'ms', but the unit of ttft_s is 's'"),
        ({"markers": ["ten_milion"]}, "markers: unknown marker 'ten_milion': did you mean 'ten_million'?"),
        ({"markers": []}, "a finding needs at least one"),
        ({"question": "serves"}, "question: Input should be"),
        ({"status": "true"}, "status: Input should be"),
        ({"question": "served"}, "needs either prompt_tokens or over_limit_tokens"),
        (
            {"question": "served", "ask": {"prompt_tokens": 1, "over_limit_tokens": 0}},
            "needs either prompt_tokens or over_limit_tokens",
        ),
        ({"question": "over-limit"}, "needs at least 1"),
        ({"question": "over-limit", "ask": {"over_limit_tokens": 0}}, "needs at least 1"),
        ({"ask": {"prompt_tokens": 0}}, r"ask\.prompt_tokens"),
        ({"ask": {"output_tokens": 0}}, r"ask\.output_tokens"),
        ({"expect": {"outcome": "works"}}, r"expect\.outcome"),
        ({"scope": {"version": "0.12"}}, r"scope\.version: '0\.12' must be a version range"),
        ({"scope": {"hardware": "8xH999"}}, r"scope\.hardware: '8xH999' must be hardware"),
        ({"known": {"issue": "i"}}, r"known\.since: is required and missing"),
        ({"reviewed": "2026-01-02"}, "reviewed: Input should be a valid date"),
    ],
)
def test_a_finding_that_cannot_be_meant_is_refused(changes, complaint):
    with pytest.raises(TableError, match=complaint):
        factories.finding(**changes)


@pytest.mark.parametrize(
    "finding_id", ["L-0001", "LC-001", "LC-00001", "lc-0001", "LC0001", "ABCDEFGHI-0001", "LC-0001 "]
)
def test_an_id_is_a_prefix_and_four_digits(finding_id):
    with pytest.raises(TableError, match="id: String should match"):
        factories.finding(id=finding_id)


@pytest.mark.parametrize("name", [*LENGTHS, *THEMES])
def test_every_marker_can_be_given_alone(name):
    assert factories.finding(markers=name).markers == (name,)


@given(st.integers(1, 10**7), st.integers(1, 1000), st.integers(-1000, 10**4))
def test_prompt_and_answer_together_go_over_the_limit_by_what_was_asked(max_model_len, output_tokens, over):
    length = Ask(over_limit_tokens=over, output_tokens=output_tokens).prompt_length(max_model_len)
    assert length is not None
    assert length + output_tokens == max_model_len + over


@pytest.mark.parametrize("max_model_len", [None, 5, 10**6])
def test_a_length_that_was_given_does_not_hang_on_the_server(max_model_len):
    assert Ask(prompt_tokens=100).prompt_length(max_model_len) == 100


def test_a_length_that_hangs_on_an_unknown_limit_is_unknown():
    assert Ask(over_limit_tokens=1).prompt_length(None) is None


SCOPES = {"ratio": {"deployment": ["a", "b"]}, "drift": {"deployment": ["a"]}}


def test_questions_are_the_words_a_finding_may_ask():
    load = {"prompt_tokens": 1, "requests": 2, "concurrency": 2}
    one = {"prompt_tokens": 1}
    asks = {
        "served": one,
        "over-limit": {"over_limit_tokens": 1},
        **dict.fromkeys(("repeated", "reset", "disconnect", "logged-rate", "over-pool"), one),
        "load": load,
        "ladder": {"lengths": [1, 2, 3]},
        "retrieval": one,
        "path": {"path": "cold", **one},
        "precision": one,
        "kv-dtype": one,
        "turns": {"prompt_tokens": 1, "turns": 2},
        "ratio": {"against": "a"},
        "drift": {"against": "a", "prompt_tokens": 2},
        "repeatable": one,
        "haystack": {"lengths": [1]},
        "continuations": {"continuations": {"a": "b"}},
        "ruler": {"task": "vt", "lengths": [4000]},
        "accuracy": {"task": "gsm8k"},
        "linted": {"command": "docker run a"},
    }
    bounds = {"requests": {"unit": "requests", "at_least": 1}}
    claims = {"claimed": {"shape": "llama-2-7b", "tokens": 1}}
    made = [
        factories.finding(
            question=word, ask=asks.get(word, {}), claim=claims.get(word), bounds=bounds, scope=SCOPES.get(word, {})
        )
        for word in questions()
    ]
    assert [finding.question for finding in made] == list(questions())


@pytest.mark.parametrize(
    ("question", "ask", "message"),
    [
        ("continuations", {}, "needs texts"),
        ("drift", {"against": "a", "prompt_tokens": 1}, "needs prompt_tokens, at least 2, and against"),
        ("drift", {"prompt_tokens": 9}, "needs prompt_tokens, at least 2, and against"),
        (
            "drift",
            {"against": "a", "prompt_tokens": 9},
            "scope.deployment: a 'drift' finding must name two deployments",
        ),
        ("repeatable", {}, "a 'repeatable' finding needs this key"),
        (
            "repeatable",
            {"prompt_tokens": 9, "against": "a"},
            "scope.deployment: a 'repeatable' finding must name two deployments",
        ),
        ("haystack", {"lengths": [1000], "form": "text"}, "as ids or as a chat"),
        ("served", {"prompt_tokens": 1, "form": "chat"}, "only an 'accounting', a 'haystack' or a 'ruler' finding"),
        ("ruler", {"lengths": [4000], "task": "niah_single_4"}, "did you mean 'niah_single_"),
        ("ruler", {"lengths": [4000]}, "unknown RULER task ''"),
        ("ruler", {"task": "vt"}, "needs lengths"),
        ("ruler", {"task": "cwe", "lengths": [4000]}, "cwe is scored on answers of 120 tokens, and 32 are asked for"),
    ],
)
def test_a_form_and_texts_belong_to_their_questions(question, ask, message):
    with pytest.raises(TableError, match=message):
        factories.finding(question=question, ask=ask)


@pytest.mark.parametrize("changes", [{"ask": {"task": "gsm8k"}}, {"bounds": {"boot_s": {"unit": "s"}}}])
def test_an_accuracy_names_its_task_and_what_is_to_be_right(changes):
    with pytest.raises(TableError, match="and bounds on an accuracy"):
        factories.finding(question="accuracy", **changes)


def test_only_a_score_is_judged_by_standard_errors():
    score = {"unit": "s", "reference": 1.0, "stderr": 0.1, "sigmas": 2, "because": "b"}
    with pytest.raises(TableError, match="ttft_s is measured without a standard error"):
        factories.finding(bounds={"ttft_s": score})


def test_every_folder_is_read(tmp_path):
    folders = write(tmp_path / "b", "TT-0002-x", "TT-0002"), write(tmp_path / "a", "TT-0001-x", "TT-0001")
    found = load_all((*folders, tmp_path / "missing"))
    assert {name: one.id for name, one in found.items()} == {"TT-0001": "TT-0001", "TT-0002": "TT-0002"}
    assert found["TT-0001"].reviewed == dt.date(2026, 1, 2)


def test_a_file_is_called_after_its_finding(tmp_path):
    with pytest.raises(TableError, match=r"TT-0002-x\.toml: rename the file to TT-0001.toml"):
        load_all((write(tmp_path / "a", "TT-0002-x", "TT-0001"),))


def test_an_id_is_given_once(tmp_path):
    folders = write(tmp_path / "a", "TT-0001-x", "TT-0001"), write(tmp_path / "b", "TT-0001-y", "TT-0001")
    with pytest.raises(TableError, match=r"TT-0001-y\.toml: there is another finding with the id TT-0001"):
        load_all(folders)


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
LIMITS = st.one_of(
    st.fixed_dictionaries({"exactly": FIGURES}),
    st.fixed_dictionaries({"at_least": FIGURES}),
    st.fixed_dictionaries({"reference": FIGURES, "tolerance": st.just("5%"), "because": st.just("it was seen")}),
)
CONTENTS = st.fixed_dictionaries(
    {"title": TEXTS, "note": TEXTS, "status": st.sampled_from(get_args(Status)), "reviewed": st.dates()},
    optional={
        "source": st.fixed_dictionaries({"document": TEXTS}, optional={"where": TEXTS, "date": st.dates()}),
        "scope": st.fixed_dictionaries({}, optional={"model": st.lists(TEXTS, max_size=2), "hardware": st.just("cpu")}),
        "ask": st.fixed_dictionaries({"output_tokens": st.integers(1, 10**6)}),
        "bounds": st.dictionaries(st.just("ttft_s"), LIMITS.map(lambda limits: {"unit": "s", **limits})),
        "known": st.fixed_dictionaries({"issue": TEXTS, "since": st.dates()}),
    },
)


def written_and_read(folder, finding):
    """Return *finding* written to a file and read again. Unset fields are not written."""
    path = folder / f"{finding.id}.toml"
    path.write_text(tomli_w.dumps(finding.model_dump(exclude_unset=True)), encoding="utf-8")
    return toml.load(path, Finding)


@given(CONTENTS)
def test_a_finding_that_is_written_back_is_the_same(tmp_path_factory, content):
    finding = factories.finding(**content)
    assert written_and_read(tmp_path_factory.getbasetemp(), finding) == finding


def test_a_project_s_own_findings_come_beside_those_that_ship(tmp_path):
    shipped = load_findings()
    assert "LC-0002" in shipped
    write(tmp_path / "findings", "TT-0001", "TT-0001")
    for folder in (tmp_path, str(tmp_path)):
        assert load_findings(folder).keys() - shipped.keys() == {"TT-0001"}
