"""Planted faults: the plugin's folder, the table's rows, and what is refused."""

import importlib.metadata
import re
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import httpx
import pytest

from pytest_longctx.backends.vllm import engine_faults
from pytest_longctx.cli import main
from pytest_longctx.client import prefix_cache
from pytest_longctx.deployments.deployment import load_deployments
from pytest_longctx.findings.ask import Path as Path_
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
    source = (tmp_path / module / "__init__.py").read_text(encoding="utf-8")
    assert f"def {name}(" in source
    assert {path.name for path in (tmp_path / module).iterdir()} == {
        path.name for path in Path(engine_faults.__file__).parent.glob("*.py")
    }


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
    known, deployed = load_findings(), load_deployments()
    for where, faults in selftest.by_deployment("vllm-cpu", ()).items():
        asked = {each for fault in ("none", *faults) for each in selftest.checks(where, fault, faults)}
        assert {known[each].question for each in asked} == {"path"}
        for each in asked:
            scope = known[each].scope
            assert not scope.deployment or any(fnmatch(where, pattern) for pattern in scope.deployment), each
            assert any(fnmatch(deployed[where].model.name, pattern) for pattern in scope.model or ("*",)), each
    assert {*selftest.ALSO, *selftest.ELSEWHERE} <= set(engine_faults.FAULTS)
    assert set(selftest.ORDER) == set(get_args(Path_))


def test_each_fault_is_planted_somewhere_in_the_plugin():
    folder = Path(engine_faults.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py") if path.name != "__init__.py")
    assert [name for name in engine_faults.FAULTS if f'"{name}"' not in source] == []


def test_the_pages_say_how_many_faults_there_are_and_what_became_of_each():
    docs = Path(__file__).parents[3] / "docs"
    told = (docs / "how-to" / "check-cache-paths.md").read_text(encoding="utf-8")
    assert f"each of {len(engine_faults.FAULTS)} faults" in " ".join(told.split())
    results = docs / "results" / "vllm-0.32.0-cpu" / "cache-paths" / "README.md"
    _, _, page = results.read_text(encoding="utf-8").partition("## Planted faults")
    table, _, waiting = page.partition("Not planted in a real engine yet:")
    planted = re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)
    assert sorted([*planted, *re.findall(r"`([a-z-]+)`", waiting)]) == sorted(engine_faults.FAULTS)


def test_a_row_names_what_is_red_and_what_stays_green():
    known = load_findings()
    red = Verdict(known["SP-0002"], "broken", (Line("hit_share", "0", ">= 0.95", ok=False),))
    row = selftest.Judged("never-hits", (Verdict(known["SP-0001"], "holds"), red), "cpu-paths").row()
    assert row.endswith("| cpu-paths | repeated: hit_share | none | cold | none |")


def test_a_fault_is_named_by_the_simplest_path_that_is_wrong():
    known = load_findings()
    line = (Line("needles_share", "0.9", "1", ok=False),)
    branch, repeated = (Verdict(known[each], "broken", line) for each in ("SP-0007", "SP-0002"))
    judged = selftest.Judged("null-block-on-hit", (branch, Verdict(known["SP-0001"], "holds"), repeated))
    assert judged.named_by is repeated
    assert selftest.Judged("none", (Verdict(known["SP-0001"], "holds"),)).named_by is None


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


@pytest.mark.parametrize("exited", [True, False], ids=["exited", "about to exit"])
def test_a_fault_that_ends_the_engine_is_followed_by_another_boot(monkeypatch, tmp_path, exited):
    booted: list[Path] = []
    ended: list[str] = []
    told: list[str] = []

    def reset(server):
        if ended:
            raise httpx.ConnectError("Connection refused")

    @contextmanager
    def serving(engine, where, folder, logs):
        booted.append(where)
        ended.clear()
        yield SimpleNamespace(ended=lambda wait_s: ended[0] if ended and exited else None)

    def judged(server, fault, control, checks):
        if fault == "state-not-reset":
            ended.append("it died")
        return selftest.Judged(fault, (), "cpu-paths-mamba2")

    monkeypatch.setattr(prefix_cache, "reset", reset)
    monkeypatch.setattr(selftest, "_serving", serving)
    monkeypatch.setattr(selftest, "_judge", judged)
    faults = ["state-not-reset", "states-swapped"]
    selftest._tested("vllm-cpu", "cpu-paths-mamba2", faults, tmp_path, told.append)
    assert len(booted) == 2
    assert [row.split("`")[1] for row in told] == ["none", *faults, "none"]


def test_a_fault_that_ends_the_engine_after_its_last_answer_keeps_its_row(monkeypatch, tmp_path):
    resets = [None, httpx.ConnectError("Connection refused")]

    def reset(server):
        if (problem := resets.pop(0)) is not None:
            raise problem

    one = load_findings()["SP-0001"]
    monkeypatch.setattr(prefix_cache, "reset", reset)
    monkeypatch.setattr(selftest, "_verdict", lambda server, one, *rest: Verdict(one, "broken"))
    server: Any = SimpleNamespace(ended=lambda wait_s: None, deployment=SimpleNamespace(name="cpu-paths"))
    judged = selftest._judge(server, "block-given-twice", tmp_path / "armed", [one])
    assert judged.named_by is not None
    assert resets == []
    assert not (tmp_path / "armed").read_text(encoding="utf-8")


def test_a_fault_that_outlasts_its_time_comes_after_the_last_clean_judgement():
    assert selftest.in_order(("nan", "wrong-block")) == ("none", "wrong-block", "none", "nan")


def test_repetitions_are_drawn_alike_from_one_seed_and_cover_every_path():
    assert list(selftest.drawn(3, 50)) == list(selftest.drawn(3, 50))
    assert list(selftest.drawn(3, 50)) != list(selftest.drawn(4, 50))
    several = list(selftest.drawn(3, 500))
    assert {one for one, _ in several} == set(selftest.REPEATED)
    assert len({tokens for _, tokens in several}) > 200
    known = load_findings()
    assert all(known[one].question == "path" and not known[one].scope.deployment for one in selftest.REPEATED)
