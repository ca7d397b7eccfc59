"""Attacks on each page that is read before a server counts as ready: an honest error by name, or no effect."""

import unicodedata

import pytest

from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.errors import LongctxError
from pytest_longctx.launchers import Launch, readiness_probe
from pytest_longctx.launchers.url import UrlLauncher
from tests.hostile.servers import METRICS_ATTACKS, PAGE_ATTACKS, Hostile, deployment, listening, peak_mib

PEAK_MIB = 150
REQUIRED = {"health": "health", "models": "model", "token": "completion"}
HARMLESS = {
    ("health", name)
    for name in PAGE_ATTACKS
    if name not in ("gzip-bomb", "deflate-bomb", "unknown-encoding", "false-gzip", "endless-body", "endless-line")
}
"""Bodies of the health page are not read as anything, so only their size and form matter."""
REFUSED = [
    (page, name) for page in ("models", "token") for name in PAGE_ATTACKS if (page, name) != ("models", "wide-integer")
] + [
    ("health", name) for name in ("gzip-bomb", "false-gzip", "endless-body", "endless-headers", "drip-body", "no-http")
]
OPTIONAL = [(page, name) for page in ("version", "metrics") for name in PAGE_ATTACKS] + [
    ("metrics", name) for name in METRICS_ATTACKS
]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Total time of a page in these tests: half a second in place of five."""
    monkeypatch.setattr(readiness_probe, "_QUICK_S", 0.5)
    monkeypatch.setattr(readiness_probe, "PERSISTS_S", 0.3)


def booted(page, name, tmp_path, boot_s):
    attack = {**PAGE_ATTACKS, **METRICS_ATTACKS}[name]
    grown_mib = peak_mib()
    with listening(Hostile({page: attack})) as url:
        launch = Launch(Vllm(), deployment(boot_s), None, tmp_path)
        try:
            with UrlLauncher(url).up(launch) as server:
                return server
        finally:
            assert grown_mib() < PEAK_MIB


def printable(text):
    return all(letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cs") for letter in text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("page", "name"), REFUSED, ids=lambda value: value)
def test_a_page_that_is_needed_ends_the_boot_with_an_error_that_names_it(page, name, tmp_path):
    with pytest.raises(LongctxError) as raised:
        booted(page, name, tmp_path, 0.7)
    said = str(raised.value)
    assert "Traceback" not in said
    assert printable(said)
    assert not any(line.lstrip().startswith(("::", "##")) for line in said.splitlines())
    assert any(
        word in said for word in ("health", "/v1/models", "model list", "one token", "/v1/completions", "redirect")
    )


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("page", "name"), OPTIONAL, ids=lambda value: value)
def test_a_page_that_is_optional_keeps_no_server_from_being_ready(page, name, tmp_path):
    server = booted(page, name, tmp_path, 20.0)
    assert server.max_model_len == 4096
    assert all(map(printable, server.words.values()))


@pytest.mark.parametrize("page", ["version", "metrics"])
def test_an_oversized_optional_page_is_a_fact_of_the_boot(page, tmp_path):
    server = booted(page, "gzip-bomb", tmp_path, 20.0)
    assert server.version == (None if page == "version" else "0.12.0")


def test_an_optional_page_over_the_limit_is_named_in_the_facts(tmp_path, monkeypatch):
    monkeypatch.setattr(readiness_probe, "_QUICK_S", 3.0)  # a busy machine needs a second to inflate 16 MiB
    with listening(Hostile({"version": PAGE_ATTACKS["gzip-bomb"], "metrics": PAGE_ATTACKS["drip-body"]})) as url:
        hoped = Launch(Vllm(), deployment(20.0), None, tmp_path)
        launcher = UrlLauncher(url)
        with launcher.up(hoped):
            pass
        server = hoped.server_at(url, launcher, local=True)
        with readiness_probe.ReadinessProbe(server) as probe:
            probe._thread.join(20)
    assert "/version: GET /version: the answer is larger than 16 MiB" in probe.words["unreadable_pages"]
    assert "/metrics: GET /metrics: the answer was not complete within 3 s" in probe.words["unreadable_pages"]
