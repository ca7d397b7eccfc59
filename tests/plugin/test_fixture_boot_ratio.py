"""A ratio is judged within one run, from the facts of two boots."""

import pytest

POOL = """
name = "pool"
title = "a miniature with room for 100,000 tokens"
backend = "miniature"
max_model_len = 65_536
only_named = true
model = { name = "miniature", weights = "unknown" }
timeouts = { boot_s = 30, admission_s = 1 }

[flags]
fault = "honest"
kv-cache-tokens = 100_000
"""

TWICE = """
name = "twice"
title = "the same with twice the room"
like = "pool"
flags = { kv-cache-tokens = TOKENS }
"""

RATIO = """
id = "XX-0003"
title = "twice the tokens"
question = "ratio"
markers = ["fp8"]
status = "confirmed"
reviewed = 2026-01-01
[source]
document = "this test"
[scope]
backend = "miniature"
deployment = ["pool", "twice"]
[ask]
against = "pool"
[bounds.capacity_ratio]
unit = "x"
exactly = 2.0
"""


@pytest.fixture
def pair(pytester):
    """A project with two deployments and the ratio of their capacities."""

    def write(tokens):
        for folder in ("deployments", "findings"):
            (pytester.path / folder).mkdir()
        (pytester.path / "deployments" / "pool.toml").write_text(POOL)
        (pytester.path / "deployments" / "twice.toml").write_text(TWICE.replace("TOKENS", str(tokens)))
        (pytester.path / "findings" / "XX-0003.toml").write_text(RATIO)
        return "--longctx-data=."

    return write


@pytest.mark.parametrize(
    ("tokens", "word", "why"),
    [
        (200_000, "holds", ""),
        (150_000, "broken", 'capacity_ratio: 1.5x, wanted exactly 2x ("twice 150,000 tokens, pool 100,000 tokens")'),
        (50_000, "broken", "outcome: refuses, wanted serves"),
    ],
)
def test_it_is_judged_on_whichever_comes_up_last(run, pair, tokens, word, why):
    done = run("--backend=miniature", "-k", "XX-0003", pair(tokens))
    first, last = done.results.verdicts
    assert (first["verdict"], last["verdict"]) == ("out of scope", word)
    assert "has not been booted in this run; judged at the later boot of the two" in first["why"]
    assert last["why"].startswith(why)
    assert done.outcome.ret == (word == "broken")


def test_without_the_other_boot_nothing_is_judged_and_the_run_is_red(run, pair):
    done = run("--backend=miniature", "-k", "XX-0003-twice", pair(200_000))
    (only,) = done.results.verdicts
    assert only["verdict"] == "out of scope"
    assert only["why"] == "ratio: pool has not been booted in this run; judged at the later boot of the two"
    assert done.outcome.ret == 1
