"""Planted faults: the plugin's folder, the table's rows, and what is refused."""

import importlib.metadata

import pytest

from pytest_longctx.backends.vllm import engine_faults
from pytest_longctx.cli import main
from pytest_longctx.findings.finding import load_findings
from pytest_longctx.findings.verdicts import Line, Verdict
from pytest_longctx.launchers import selftest


def test_the_plugin_is_found_by_its_entry_point(tmp_path):
    env = engine_faults.write_plugin(tmp_path)
    (found,) = [
        point
        for each in importlib.metadata.distributions(path=[env["PYTHONPATH"]])
        for point in each.entry_points
        if point.group == "vllm.general_plugins"
    ]
    module, _, name = found.value.partition(":")
    source = (tmp_path / f"{module}.py").read_text(encoding="utf-8")
    assert f"def {name}(" in source


def test_a_fault_is_armed_and_disarmed_by_a_file(tmp_path, monkeypatch):
    assert not engine_faults.armed()
    env = engine_faults.write_plugin(tmp_path)
    monkeypatch.setenv(engine_faults.CONTROL, env[engine_faults.CONTROL])
    assert not engine_faults.armed()
    (tmp_path / "armed").write_text("nan\n", encoding="utf-8")
    assert engine_faults.armed() == "nan"
    (tmp_path / "armed").unlink()
    assert not engine_faults.armed()


def test_every_check_and_fault_of_the_selftest_is_known():
    known = load_findings()
    named = {*selftest.CHECKS, *(each for several in selftest.ALSO.values() for each in several)}
    assert {known[each].question for each in named} == {"path"}
    assert set(selftest.ALSO) <= set(engine_faults.FAULTS)


def test_a_row_names_what_is_red_and_what_stays_green():
    known = load_findings()
    red = Verdict(known["SP-0002"], "broken", (Line("hit_share", "0", ">= 0.95", ok=False),))
    row = selftest.Judged("never-hits", (Verdict(known["SP-0001"], "holds"), red)).row()
    assert row.endswith("| repeated: hit_share | cold | none |")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "vllm-gpu"], "unknown engine 'vllm-gpu'"),
        (["--engine", "vllm-cpu", "nans"], "unknown fault 'nans'"),
    ],
)
def test_an_unknown_name_is_one_line(capsys, arguments, said):
    assert main(["selftest", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_fault_that_outlasts_its_time_comes_after_the_last_clean_judgement():
    assert selftest.in_order(("nan", "wrong-block")) == ("none", "wrong-block", "none", "nan")
