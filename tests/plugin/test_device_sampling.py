"""Device and server samples of a run are written to its results, and nowhere else."""

import pytest

TWO_SECONDS = """
import time
def test_it(server, ask, prompt):
    ask(prompt(1000), 4)
    time.sleep(2.2)
"""

OTHERS = """
class Others:
    "A second reporter, of the whole run: a worker writes no reports."
    def pytest_runtest_logreport(self, report):
        if not any("host_rss" in str(pair) for pair in report.user_properties if not pair[0].endswith("boot")):
            with open("others", "a") as out:
                print(report.when, file=out)

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Others())
"""


@pytest.mark.parametrize("workers", [[], ["-n1"]], ids=["alone", "xdist"])
def test_a_server_is_looked_at_through_its_boot_and_its_requests(run, pytester, workers):
    pytester.makepyfile(TWO_SECONDS)
    pytester.makeconftest(OTHERS)
    done = run("--backend=miniature", "--junitxml=report.xml", *workers, what=str(pytester.path))
    done.outcome.assert_outcomes(passed=1)
    (boot,), rows = done.results.boots, done.results.vitals
    assert 2 <= len(rows) <= 8
    for row in rows:
        assert row["deployment"] == boot["deployment"]
        assert row["at_s"] >= boot["started_s"]
        assert 0 < row["figures"]["host_anonymous_gib"] <= row["figures"]["host_rss_gib"] < 1
    assert rows[-1]["figures"].keys() >= {"running", "waiting", "kv_usage"}
    assert boot["figures"]["host_peak_gib"] > 0
    # An hour of samples would make other reports megabytes large.
    assert (done.folder / "others").read_text().split() == ["setup", "call", "teardown"]
    assert "host_rss" not in (done.folder / "report.xml").read_text()


def test_a_request_is_judged_with_the_memory_of_its_time(run):
    done = run("--backend=miniature", "-m", "ten_k")
    assert all(0 < row["measured"]["host_peak_gib"] < 1 for row in done.results.verdicts)


def test_what_cannot_be_seen_is_said_once(run, pytester):
    """A real server with H200 as configured hardware, on a machine without one."""
    pytester.makeconftest(
        """
        from pytest_longctx.backends.miniature import Miniature
        class Large(Miniature):
            name = "large"
            shares_machine = False
        def pytest_longctx_make_backend(name):
            return Large() if name == "large" else None
        """
    )
    for name in ("a", "b"):
        pytester.makefile(
            ".toml",
            **{
                name: f'name="{name}"\ntitle="t"\nbackend="large"\nhardware="1xH200"\nmax_model_len=4096\n[model]\nname="m"\n'
            },
        )
    pytester.makepyfile("def test_it(server): pass")
    done = run(
        "--backend=large",
        "--longctx-hardware=1xH200",
        "--longctx-deployment=a.toml,b.toml",
        what=str(pytester.path),
    )
    done.outcome.assert_outcomes(passed=2)
    assert done.text.count("1xH200 cannot be monitored") == 1
    assert "pip install 'pytest-longctx[nvidia]'" in done.text
    assert [row["deployment"] for row in done.results.vitals if "said" in row] == ["a", "b"]
