"""A small hosted API: chat only, a key, no pages, no list of lengths, its limit told only in the refusal."""

import io
import json

import pytest

from pytest_longctx import cli
from pytest_longctx.certificate import page
from pytest_longctx.certificate.budget import Budget
from pytest_longctx.miniatures.hosted.api import HostedApi
from pytest_longctx.miniatures.hosted.wire import serving
from tests.unit.certificate.endpoints import KEY, certified, result, words


def small(**options):
    return HostedApi(**{"limit": 128_000, "key": KEY, "reports_cached": False, **options})


@pytest.mark.parametrize(("counts_answer", "longest"), [(True, 127_999), (False, 128_000)])
def test_its_limit_is_found_exactly_with_nothing_but_url_key_and_model(counts_answer, longest):
    certificate = certified(small(counts_answer=counts_answer), model="miniature")
    assert (certificate.longest, certificate.context) == (longest, 128_000)
    assert words(certificate, "broken") == []
    assert certificate.budget["prompt_tokens"] < 2_000_000


@pytest.mark.parametrize("refusal", ["openai", "vllm", "sglang"])
def test_each_wording_of_a_refusal_leads_to_the_limit(refusal):
    certificate = certified(small(limit=9_001, refusal=refusal))
    assert certificate.longest == 9_000
    assert words(certificate, "broken") == []


@pytest.mark.parametrize("dialect", ["text", "responses", "generate"])
def test_other_dialects_are_found_by_asking(dialect):
    certificate = certified(small(limit=6_000, dialects=(dialect,)))
    assert certificate.fields["dialect"] == {"text": "completions"}.get(dialect, dialect)
    assert certificate.context == 6_000
    assert words(certificate, "broken") == []


def test_the_command_writes_the_certificate_and_no_key(tmp_path, capsys):
    files = {name: tmp_path / f"certificate.{name}" for name in ("json", "html", "markdown")}
    with serving(small(limit=6_000)) as url:
        status = cli.main(["certify", url, *(f"--{name}={path}" for name, path in files.items())])
    written = "".join(path.read_text(encoding="utf-8") for path in files.values())
    out = capsys.readouterr()
    assert status == 0
    assert KEY not in written + out.out + out.err
    made = json.loads(files["json"].read_text(encoding="utf-8"))
    assert (made["context"], made["verdicts"]["broken"]) == (6_000, 0)
    assert "6,000 tokens" in files["html"].read_text(encoding="utf-8")
    assert files["markdown"].read_text(encoding="utf-8").startswith("![long context: 6,000 tokens, ")


def test_nothing_is_sent_to_another_machine_without_a_yes(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert (
        cli.main(["certify", "https://192.0.2.1", "--claim", "1M", "--budget", "$5", "--price-in=1", "--price-out=4"])
        == 2
    )
    said = capsys.readouterr().err
    assert "at most $5.00 will be sent" in said
    assert "nothing was sent: there is no terminal" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--claim", "much"], "--claim"),
        (["--claim", "7"], "--claim: 7 tokens are too few"),
        (["--budget", "$5"], "--price-in"),
        (["--price-in", "-1"], "--price-in"),
        (["--timeout", "0"], "--timeout"),
    ],
)
def test_wrong_input_is_named(words, said, capsys):
    assert cli.main(["certify", "http://127.0.0.1:9", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_wrong_key_is_an_error_and_no_verdict(capsys, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "sk-another-key-1")
    with serving(small(limit=6_000)) as url:
        assert cli.main(["certify", url, "--model=miniature", "--key-env=OTHER_KEY"]) == 2
    said = capsys.readouterr().err
    assert "does not answer in any known dialect" in said
    assert "sk-another-key-1" not in said


def test_a_length_that_the_budget_ended_is_no_limit():
    certificate = certified(small(), budget=Budget(60_000))
    assert not certificate.bounded
    assert certificate.headline == f"prompts of {certificate.longest:,} tokens or more"
    assert page.badge(certificate).startswith(f"![long context: {certificate.longest:,} tokens or more, ")


def test_a_budget_too_small_to_begin_is_an_error(capsys):
    with serving(small(limit=6_000)) as url:
        assert cli.main(["certify", url, "--budget=100"]) == 2
    assert "the budget of 100 tokens has" in capsys.readouterr().err


def test_a_model_that_answers_no_question_is_judged_by_the_rest():
    certificate = certified(Mute(limit=9_000, key=KEY))
    assert words(certificate, "broken") == []
    assert result(certificate, "truncation-recall").word == "unmeasured"
    assert {result(certificate, f"truncation-{part}").word for part in ("head", "middle", "tail")} == {"unmeasured"}
    assert certificate.context == 9_000


class Mute(HostedApi):
    """It writes words without a code, as a model of random weights does."""

    def generated(self, call, kept, cached):
        answer = super().generated(call, kept, cached)
        parts = ["word", " salad"] * 512
        parts = parts[: self.maximum(call, kept)]
        return type(answer)(parts, len(parts), "length")
