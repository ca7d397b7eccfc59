"""The same seed used twice on a server that still has the prompts of the first run in its cache."""

import pytest

from pytest_longctx.miniatures.faults import CachedAnswer
from pytest_longctx.miniatures.sglang import Sglang
from tests.unit.fake_engine import serving

WHY = "--longctx-seed=7 repeats the prompts of an earlier run, which this server may still have in its cache"


@pytest.fixture
def twice(run):
    """Run one finding against *mind* twice. Returns the verdict rows and the output of the second run."""

    def start(mind, backend, *options):
        with serving(mind) as server:
            typed = (f"--backend={backend}", f"--longctx-launcher=url:{server.url}", "-k", "LC-0001", *options)
            rows = []
            for _ in range(2):
                done = run(*typed, "-rs")
                rows += done.results.verdicts
        return rows, done

    return start


@pytest.mark.parametrize("backend", ["miniature-sglang", "openai"])
def test_a_new_seed_is_cold_both_times(twice, backend):
    rows, _ = twice(Sglang(), backend)
    assert [row["verdict"] for row in rows] == ["holds", "holds"]
    assert [row["measured"].get("cached_tokens") for row in rows] == [0, 0] or backend == "openai"


def test_the_same_seed_is_salted_where_the_engine_heeds_it(twice):
    rows, _ = twice(Sglang(), "miniature-sglang", "--longctx-seed=7")
    assert [row["verdict"] for row in rows] == ["holds", "holds"]
    assert [row["measured"].get("cached_tokens") for row in rows] == [0, 0]


def test_the_same_seed_elsewhere_proves_nothing_the_second_time(twice):
    """A server is not at fault if it is sent the same prompt twice."""
    rows, done = twice(Sglang(), "openai", "--longctx-seed=7")
    assert [row["verdict"] for row in rows] == ["holds", "unmeasured"]
    assert f"{WHY}: omit the seed, or restart the server" in rows[1]["why"]
    assert done.outcome.parseoutcomes()["skipped"] == 1


def test_a_cache_that_answers_a_salted_prompt_is_not_blamed_for_it_and_told(twice):
    rows, _ = twice(CachedAnswer(), "miniature", "--longctx-seed=7")
    assert {row["verdict"] for row in rows} == {"unmeasured"}
    assert "the server used its cache although the requests had a cache_salt of this run" in rows[1]["why"]


def test_a_new_prompt_from_the_cache_is_still_broken(twice):
    rows, _ = twice(CachedAnswer(), "miniature")
    assert [row["verdict"] for row in rows] == ["broken", "broken"]
    assert WHY not in rows[1]["why"]
