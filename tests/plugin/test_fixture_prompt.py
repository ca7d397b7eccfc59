"""The fixture ``prompt`` beyond random ids: it finds the deployment's tokenizer and reads the project's text."""

TESTS = """
import pytest
from pytest_longctx.prompts.corpus import Words

@pytest.fixture(scope="session")
def longctx_corpus():
    return Words(tuple(f"w{number}" for number in range(100, 1000)))

def test_every_kind(prompt, deployment):
    assert deployment.name == "worded"
    assert [len(prompt("1k")), len(prompt.natural("1k")), len(prompt.text("1k"))] == [1000, 1000, 1000]
    assert len(prompt.text("1k").text.split()) == 1000
    assert [len(turn) for turn in prompt.turns(100, 10, 20, 2)] == [100, 130]

def test_it_can_be_sent(prompt, ask):
    assert ask(prompt.natural(500), 2).usage.prompt_tokens == 500
"""
WORDED = """
name = "worded"
title = "a miniature with the tiny model's tokenizer"
backend = "miniature"
max_model_len = 65_536

[model]
name = "tiny-llama4"
make = "tiny-llama4"
"""


def test_the_fixture_has_every_kind(run, pytester, monkeypatch):
    monkeypatch.setenv("LONGCTX_HOME", str(pytester.path / "kept"))
    pytester.makepyfile(TESTS)
    (pytester.path / "worded.toml").write_text(WORDED, encoding="utf-8")
    ran = run("--backend=miniature", "--longctx-deployment=worded.toml", what=str(pytester.path))
    ran.outcome.assert_outcomes(passed=2)
    kept = list((pytester.path / "kept" / "prompts").glob("*.npy"))
    assert len(kept) == 4  # natural text of two lengths, and two exact texts
