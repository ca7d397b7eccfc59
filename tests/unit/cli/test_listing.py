"""``longctx list`` and ``longctx show``: everything that has a name is listed once and can be shown."""

import json
import shutil
from pathlib import Path

import pytest

from pytest_longctx import cli, paths, registry
from pytest_longctx.cli import listing
from pytest_longctx.findings.finding import load_all
from pytest_longctx.findings.markers import LENGTHS, THEMES
from pytest_longctx.measures import MEASURES

SUITES = listing.Data((paths.suites(),))
EXAMPLES = Path(__file__).parents[3] / "docs/examples"


def printed(capsys, *words):
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("findings", load_all((paths.suites() / "findings",))),
        ("backends", registry.BACKENDS),
        ("markers", (*LENGTHS, *THEMES)),
        ("measures", MEASURES),
        ("deployments", [path.stem for path in (paths.suites() / "deployments").glob("*.toml")]),
    ],
)
def test_each_kind_is_listed_whole(capsys, kind, known):
    assert sorted(line.split()[0] for line in printed(capsys, "list", kind).splitlines()) == sorted(known)
    assert sorted(row["name"] for row in json.loads(printed(capsys, "list", kind, "--json"))) == sorted(known)


def test_the_counts_are_those_of_the_lists(capsys):
    counts = json.loads(printed(capsys, "list", "--json"))
    assert counts == {kind: len(listing.entries(kind, SUITES)) for kind in listing.KINDS}
    assert all(f"{kind} " in printed(capsys, "list") for kind in counts)


@pytest.mark.parametrize("kind", listing.KINDS)
def test_everything_that_is_listed_can_be_shown(kind):
    every = listing.entries(kind, SUITES)
    for name in (every[0].name, every[-1].name):
        assert {one.name for one in listing.named(name, SUITES)} == {name}
    for entry in every:
        assert next(entry.lines()).startswith(f"{entry.kind} {entry.name}: ")
        assert entry.title
        assert json.loads(json.dumps(entry.as_json()))["name"] == entry.name


@pytest.mark.parametrize(
    ("name", "shows"),
    [
        ("SC-0001", ["bounds.ttft_s.reference", "scope.hardware", "8xH200", "--backend=vllm -k SC-0001"]),
        ("lc-0010", ["finding LC-0010", "ask.prompt_tokens  10000000"]),
        ("ttft_s", ["unit", "SC-0001"]),
        ("ten_million", ["tokens    10000000", "LC-0010"]),
        ("h200x1-probe-vllm-10m", ["flags.", "longctx render h200x1-probe-vllm-10m"]),
        ("vllm-cpu", ["longctx engine vllm-cpu", "vllm:num_requests_waiting"]),
        ("kv-cache-too-small", ["outcome", "regex", "remedy"]),
        ("miniature", ["deployment miniature: ", "backend miniature: "]),
    ],
)
def test_a_name_shows_what_is_known_of_it(capsys, name, shows):
    text = printed(capsys, "show", name)
    assert [each for each in shows if each not in text] == []


@pytest.mark.parametrize(
    ("typed", "near"),
    [("LC-00010", "LC-0010"), ("ttft", "ttft_s"), ("vlm", "vllm"), ("ten_milion", "ten_million"), ("x" * 9999, "")],
)
def test_an_unknown_name_gets_the_nearest_known_ones(capsys, typed, near):
    assert cli.main(["show", typed]) == 2
    err = capsys.readouterr().err
    assert near in err
    assert len(err) < 1000


def test_own_folders_are_listed_too(capsys, tmp_path):
    shutil.copytree(EXAMPLES / "findings", tmp_path / "findings")
    own = load_all((tmp_path / "findings",))
    assert own
    for name in own:
        assert name in printed(capsys, "list", "findings", f"--data={tmp_path}")
        assert printed(capsys, "show", name, f"--data={tmp_path}").startswith(f"finding {name}: ")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_secrets_of_an_own_deployment_are_not_shown(capsys, tmp_path, options):
    (tmp_path / "deployments").mkdir()
    (tmp_path / "deployments" / "ours.toml").write_text(
        'name = "ours"\ntitle = "ours"\nbackend = "vllm"\nmodel = { name = "m" }\n'
        'flags = { api-key = "hidden-flag" }\nenv = { HF_TOKEN = "hidden-token", PLAIN = "seen-value" }\n',
        encoding="utf-8",
    )
    text = printed(capsys, "show", "ours", f"--data={tmp_path}", *options)
    assert "seen-value" in text
    assert "hidden" not in text
