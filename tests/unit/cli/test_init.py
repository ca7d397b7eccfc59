"""``longctx init``: files that load, a CI job, and nothing overwritten."""

import json
import shlex

import pytest

from pytest_longctx import backends, cli, units
from pytest_longctx.cli import init
from pytest_longctx.cli.toml_text import text_of
from pytest_longctx.deployments import deployment
from pytest_longctx.findings import finding
from pytest_longctx.findings.scope import Conditions, mismatch


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(capsys, *words):
    assert cli.main(["init", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("backend", init.TEMPLATES)
def test_the_first_files_of_each_backend_load_and_match_each_other(place, capsys, backend):
    assert made(capsys, f"--backend={backend}")["backend"] == backend
    (one,) = deployment.load_all((place / "deployments",)).values()
    (first,) = finding.load_all((place / "findings",)).values()
    assert one.backend == backend
    assert mismatch(first, Conditions(one), settled=False) is None
    assert cli.main(["check", "--data=."]) == 0
    assert f"longctx_backend = {backend}" in (place / "pytest.ini").read_text(encoding="utf-8")


def test_an_own_model_replaces_the_small_one(place, capsys):
    (place / "model").mkdir()
    made(capsys, "longctx", "--backend=vllm", "--model=model", "--max-model-len=8Ki")
    (one,) = deployment.load_all((place / "longctx/deployments",)).values()
    (first,) = finding.load_all((place / "longctx/findings",)).values()
    assert (one.model.path, one.model.weights, one.max_model_len) == (str(place / "model"), "real", 8192)
    assert one.context_lengths == ()
    assert first.ask.prompt_tokens == 8192 - 128
    made(capsys, "other", "--backend=vllm", "--model=someone/large", "--max-model-len=128Ki")
    (one,) = deployment.load_all((place / "other/deployments",)).values()
    assert (one.model.id, one.model.name) == ("someone/large", "large")


@pytest.mark.parametrize(
    ("tokens", "marker"), [("500", "ten_k"), ("60_000", "ten_k"), ("128Ki", "hundred_k"), ("1_000_000", "one_million")]
)
def test_the_prompt_has_the_length_that_is_typed(place, capsys, tokens, marker):
    made(capsys, "--backend=miniature", f"--prompt-tokens={tokens}")
    (first,) = finding.load_all((place / "findings",)).values()
    assert first.ask.prompt_tokens == units.tokens(tokens)
    assert first.markers == (marker, "context_length")
    assert first.title.startswith(f"{units.tokens(tokens):,} tokens")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-model-len=8Ki"], "--max-model-len needs --model"),
        (["--backend=vllm", "--model=x/y"], "the context length of the model is missing"),
        (["--backend=vllm", "--model=x/y", "--max-model-len=much"], "must be a token count"),
        (["--backend=vllm", "--model=x/y", "--max-model-len=9"], "no room for a prompt"),
        (["--prompt-tokens=many"], "--prompt-tokens: "),
        (["--prompt-tokens=0"], "do not fit"),
        (["--prompt-tokens=20_000_000"], "do not fit; the deployment serves"),
        (["--model=x/y", "--max-model-len=8Ki"], "miniature serves no model"),
        (["file"], "file"),
    ],
)
def test_what_cannot_be_made_is_one_message_and_no_file(place, capsys, words, message):
    (place / "file").touch()
    assert cli.main(["init", *(words if "--backend=vllm" in words else ["--backend=miniature", *words])]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in place.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "there", ["deployments/own-miniature.toml", "findings/FIRST-0001-first.toml", ".gitlab-ci.yml"]
)
def test_a_file_that_is_there_is_kept_and_nothing_is_written(place, capsys, there):
    (place / there).parent.mkdir(exist_ok=True)
    (place / there).write_text("mine", encoding="utf-8")
    assert cli.main(["init", "--backend=miniature", "--ci=gitlab"]) == 2
    assert f"{there}: already exists" in capsys.readouterr().err
    assert (place / there).read_text(encoding="utf-8") == "mine"
    assert [path for path in place.rglob("*.*") if path.is_file()] == [place / there]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", "[pytest]\n"),
        ("tox.ini", "[pytest]\n"),
        ("setup.cfg", "[tool:pytest]\n"),
        ("pyproject.toml", "[tool.pytest.ini_options]\n"),
    ],
)
def test_settings_of_a_project_are_kept_and_the_command_has_the_options(place, capsys, name, text):
    (place / name).write_text(text, encoding="utf-8")
    found = made(capsys, "--backend=miniature")
    assert (place / name).read_text(encoding="utf-8") == text
    assert not any(file.endswith("pytest.ini") for file in found["files"])
    assert "--longctx-deployment=own-miniature" in shlex.split(found["next"][0])


def test_the_next_commands_can_be_typed_one_after_the_other(place, capsys):
    """The first changes to the folder; a second change would fail there."""
    assert made(capsys, "own suite", "--backend=miniature")["next"] == [
        "cd 'own suite' && pytest",
        "longctx record",
        "pytest",
    ]
    assert made(capsys, "--backend=miniature")["next"] == ["pytest", "longctx record", "pytest"]


@pytest.mark.parametrize(("name", "text"), [("pyproject.toml", "[project]\n"), ("tox.ini", "[tox]\n")])
def test_a_project_without_settings_of_pytest_gets_them(place, capsys, name, text):
    (place / name).write_text(text, encoding="utf-8")
    assert "pytest.ini" in made(capsys, "--backend=miniature")["files"]


@pytest.mark.parametrize("backend", ["vllm", "vllm-cpu", "miniature"])
def test_the_ci_jobs_are_at_the_root_of_the_repository(place, capsys, backend):
    yaml = pytest.importorskip("yaml")
    (place / ".git").mkdir()
    made(capsys, "serving: all/long ctx", f"--backend={backend}", "--ci=github")
    made(capsys, "else where", f"--backend={backend}", "--ci=gitlab")
    github = yaml.safe_load((place / ".github/workflows/long-context.yml").read_text(encoding="utf-8"))
    gitlab = yaml.safe_load((place / ".gitlab-ci.yml").read_text(encoding="utf-8"))
    job = github["jobs"]["findings"]
    assert job["defaults"]["run"]["working-directory"] == "serving: all/long ctx"
    assert gitlab["long-context"]["script"][0] == "cd 'else where'"
    assert gitlab["long-context"]["artifacts"]["reports"]["junit"] == "else where/report.xml"
    typed = [step["run"] for step in job["steps"] if "run" in step], gitlab["long-context"]["script"]
    for script in typed:
        assert (f"longctx engine {backend}" in script) == bool(backends.named(backend).install)
        assert any(line.startswith("pytest --junitxml=") for line in script)
        for line in script:
            if line.startswith("longctx "):
                cli.commands().parse_args(shlex.split(line)[1:])
    assert (job["runs-on"] == "ubuntu-latest") == (backend != "vllm")


def test_every_shipped_table_can_be_written_and_loads_to_itself():
    """The writer of TOML, with what 200 deployments and 400 findings contain."""
    for one in deployment.load_deployments().values():
        assert "\n[" in text_of(one)
    for each in finding.load_findings().values():
        assert text_of(each, "two\nlines").startswith("# two\n# lines\nid = ")
