"""One run in several parts: each deployment is booted in exactly one part, and no test is lost."""

import shutil

import pytest

from pytest_longctx import cli, read_results

SOME = ("--backend=miniature", "-m", "smoke or ten_k or boot or prefix_cache or expected_oom or claims")


@pytest.fixture
def parts(run, pytester):
    """Run the shards of *count* and keep the results file of each."""

    def start(count, *arguments):
        done, kept = [], []
        for index in range(1, count + 1):
            one = run(*SOME, f"--longctx-shard={index}/{count}", f"--longctx-results=part{index}", *arguments)
            done.append(one)
            kept.append(pytester.path / f"part{index}" / "results.jsonl")
        return done, kept

    return start


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_the_shards_come_to_what_the_whole_comes_to(run, parts, pytester, workers):
    whole = run(*SOME).results
    done, kept = parts(3, *workers)
    assert [one.outcome.ret for one in done] == [0, 0, 0]
    assert cli.main(["merge", *map(str, kept), "-o", str(pytester.path / "whole.jsonl")]) == 0
    merged = read_results(pytester.path / "whole.jsonl")

    def said(results):
        return sorted((row["test"], row["finding"], row["verdict"], row["outcome"]) for row in results.verdicts)

    assert said(merged) == said(whole)
    booted = [{boot["deployment"] for boot in read_results(path).boots} for path in kept]
    assert len(set.union(*booted)) == sum(map(len, booted)) >= 2
    assert merged.footer["verdicts"] == whole.footer["verdicts"]


def test_a_shard_that_has_nothing_to_do_is_green_and_has_its_file(run, pytester):
    few = ("--backend=miniature", "-m", "ten_million")  # one deployment
    kept = []
    for index in (1, 2, 3):
        done = run(*few, f"--longctx-shard={index}/3", f"--longctx-results=part{index}")
        assert done.outcome.ret == 0
        kept.append(pytester.path / f"part{index}" / "results.jsonl")
    assert cli.main(["merge", *map(str, kept), "-o", str(pytester.path / "whole.jsonl")]) == 0
    assert len(read_results(pytester.path / "whole.jsonl").verdicts) == 1


def test_a_shard_of_a_run_that_finds_no_hardware_is_red(run):
    done = run("--backend=sglang", "-m", "two_million", "--longctx-hardware=cpu", "--longctx-shard=1/2")
    assert done.outcome.ret == 1
    assert "no finding was judged" in done.text


def test_a_missing_shard_is_no_whole(parts, pytester, capsys):
    _, kept = parts(2)
    assert cli.main(["merge", str(kept[0]), "-o", str(pytester.path / "whole.jsonl")]) == 2
    assert "shards are missing: 2/2" in capsys.readouterr().err


def test_recorded_times_balance_the_shards(run, pytester):
    run(*SOME)
    path = pytester.path / "times.jsonl"
    shutil.move(pytester.path / "results" / "results.jsonl", path)
    text = path.read_text()
    path.write_text(text.replace('"seconds": ', '"seconds": 1000', 1))  # only of the first boot
    done = run(*SOME, "--longctx-shard=1/2:times.jsonl")
    assert len({boot["deployment"] for boot in done.results.boots}) == 1


@pytest.mark.parametrize(("option", "complaint"), [("5/4", "write K/N"), ("1/2:none.jsonl", "none.jsonl")])
def test_a_wrong_shard_is_refused(run, option, complaint):
    done = run(*SOME, f"--longctx-shard={option}")
    assert done.outcome.ret == 4
    assert complaint in done.text
