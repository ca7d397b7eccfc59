"""A run that selects less than intended reports it and the right command."""

import pytest

from pytest_longctx import paths

OWN = """
import pytest

def test_of_mine(server): ...

@pytest.mark.finding("SC-0008")
def test_of_a_finding(finding, judge): ...

@pytest.mark.judges("boot-fails")
def test_of_a_question(finding, judge): ...
"""

TYPED = {
    "a marker": (["-m", "ten_milion"], "-m: unknown marker ten_milion; did you mean ten_million?"),
    "one marker of two": (
        ["-m", "smoke or ten_milion"],
        "-m: unknown marker ten_milion; did you mean ten_million?",
    ),
    "a marker left out": (["-m", "smoke and not fp9"], "-m: unknown marker fp9; did you mean fp8?"),
    "a marker like no other": (["-m", "zzz"], "-m: unknown marker zzz; pytest --markers lists them"),
    "a finding": (
        ["-k", "LC-0092"],
        "-k: no collected test is named LC-0092; did you mean VC-0092 or SC-0092 or LC-00",
    ),
    "a deployment": (["-k", "minature"], "-k: no collected test is named minature; did you mean miniature"),
    "a test": (["-k", "length_is_servd"], "-k: no collected test is named length_is_servd; did you mean "),
    "a finding of others": (
        ["-k", "SC-0008"],
        "-k: no collected test is named SC-0008; does not apply to this run: deployment: miniature is not scout-sglang-10m",
    ),
    "two that exclude each other": (["-m", "smoke", "-k", "retrieval"], "tests has -m 'smoke' and -k 'retrieval'"),
}


@pytest.fixture
def loose(run, pytester):
    """Like `run`, in a project without strict markers."""

    def start(*typed):
        pytester.makeini("[pytest]\naddopts = -p no:cacheprovider\n")
        return run("--backend=miniature", "--longctx-deployment=miniature", *typed)

    return start


@pytest.mark.parametrize(("typed", "message"), TYPED.values(), ids=TYPED)
def test_what_was_misspelt_is_named_with_its_nearest(loose, typed, message):
    done = loose("--collect-only", "-q", *typed)
    assert done.text.count(message) == 1
    assert "Traceback" not in done.text


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_where_markers_are_strict_a_misspelt_one_is_refused(run, workers):
    done = run("--backend=miniature", "-m", "ten_milion or smoke", *workers)
    assert done.outcome.ret == pytest.ExitCode.USAGE_ERROR
    assert done.text.count("ERROR: -m: unknown marker ten_milion; did you mean ten_million?") == 1
    assert "INTERNALERROR" not in done.text


@pytest.mark.parametrize("typed", [["-m", "smoke"], ["-m", "not mine_alone"], ["-k", "LC-0001 and not mine_alone"]])
def test_what_is_spelt_right_is_not_remarked_on(loose, typed):
    done = loose("--collect-only", "-q", *typed)
    assert done.outcome.ret == 0
    assert "longctx: -" not in done.text


def test_workers_that_collect_tell_it_too(loose):
    done = loose("-m", "ten_milion", "-n2")
    assert done.text.count("-m: unknown marker ten_milion; did you mean ten_million?") == 1


@pytest.mark.parametrize(
    ("name", "found"),
    [("test_mine.py", "1 tests were collected here, but none is selected"), ("mine.py", "no test was collected here")],
)
def test_a_run_without_the_suites_says_how_to_run_them(pytester, name, found):
    """In another project, or in an empty folder."""
    (pytester.path / name).write_text("def test_mine(): ...", encoding="utf-8")
    done = pytester.runpytest("--backend=sglang", "-m", "ten_million")
    assert done.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    typed = "pytest --pyargs pytest_longctx.suites --backend=sglang -m ten_million"
    done.stdout.fnmatch_lines([f"longctx: {found}; for the suites: {typed}*"])


def test_a_test_of_ones_own_that_is_left_out_says_why(run, pytester):
    pytester.makepyfile(test_mine=OWN)
    done = run(
        "--backend=sglang", "--longctx-hardware=1xH100", "--longctx-deployment=scout-sglang-2m", what="test_mine.py"
    )
    assert done.outcome.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    text = " ".join(done.text.split())
    assert (
        "longctx: test_mine.py::test_of_mine will not run: no deployment of --backend=sglang can be booted here "
        "(scout-sglang-2m: hardware: needs 8xH200, this machine has 1xH100). Select a deployment for this machine"
    ) in text
    assert (
        "longctx: test_mine.py::test_of_a_finding will not run: "
        "SC-0008 does not apply to this run: deployment: scout-sglang-2m is not scout-sglang-10m"
    ) in text
    assert (
        "longctx: test_mine.py::test_of_a_question will not run: no finding with the question 'boot-fails' applies to"
        in text
    )


def test_suites_that_ask_nothing_of_this_backend_are_left_out_in_silence(run):
    done = run("--backend=miniature", "--collect-only", "-q", what=str(paths.suites() / "claims"))
    assert "will not run" not in done.text


def test_an_unknown_question_of_a_deployment_is_named(run, faulty, pytester):
    chosen = faulty("honest")
    path = pytester.path / "faulty.toml"
    path.write_text(f'only_questions = ["paths"]\n{path.read_text()}', encoding="utf-8")
    done = run("--backend=miniature", chosen)
    assert "faulty: only_questions: unknown question 'paths': did you mean 'path'?" in done.text
