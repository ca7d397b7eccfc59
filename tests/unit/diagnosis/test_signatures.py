import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx import toml
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.diagnosis import signatures as diagnosis_signatures
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.signatures import Catalogue
from pytest_longctx.errors import TableError
from pytest_longctx.measures import MEASURES


def signature(name: str, regex: str, **changes: object) -> dict[str, object]:
    content = {"id": name, "outcome": "dies", "phase": "load", "regex": regex}
    return {**content, "remedy": "r", "source": "s", "example": "e", "near_miss": "n", **changes}


def known(*signatures: dict[str, object], facts: Sequence[dict[str, str]] = ()) -> Catalogue:
    return toml.check({"fact": list(facts), "signature": list(signatures)}, Catalogue, "a catalogue")


def read(what: Catalogue, *lines: str) -> LogReader:
    reading = LogReader(what)
    for line in lines:
        reading.feed(line)
    return reading


FACTS = known(
    facts=[
        {"regex": "loading", "phase": "load"},
        {"regex": r"size: (?P<kv_cache_tokens>[\d,]+) tokens(?:, (?P<concurrency>[\d.]+)x)?", "phase": "warm-up"},
        {"regex": r"version (?P<engine_version>\S+)"},
    ]
)

FAILURES = known(
    signature("out-of-memory", r"out of memory(?:: (?P<allocation_gib>[\d.]+) GiB)?"),
    signature("assertion", "assert"),
    signature("worker-died", "died", summary=True),
)


def test_facts_are_read_as_figures_and_words():
    reading = read(FACTS, "version 0.12.0+cu130", "size: 5,711,392 tokens, 87.15x")
    assert reading.figures == {"kv_cache_tokens": 5_711_392.0, "concurrency": 87.15}
    assert reading.words == {"engine_version": "0.12.0+cu130"}
    assert reading.failure is None


def test_a_group_that_is_not_in_the_line_is_no_reading():
    reading = read(FACTS, "size: 10 tokens")
    assert (reading.figures, reading.words) == ({"kv_cache_tokens": 10.0}, {})


def test_the_last_reading_of_a_fact_counts():
    assert read(FACTS, "size: 10 tokens, 2x", "size: 20 tokens").figures == {
        "kv_cache_tokens": 20.0,
        "concurrency": 2.0,
    }


def test_the_phase_is_the_last_that_began():
    reading = LogReader(FACTS)
    phases = [reading.phase]
    for line in ("loading", "version 1", "nothing", "size: 1 tokens"):
        reading.feed(line)
        phases.append(reading.phase)
    assert phases == ["start", "load", "load", "load", "warm-up"]


def test_colours_of_a_terminal_are_not_part_of_a_line():
    reading = read(FACTS, "\x1b[36mver\x1b[0msion\x1b[1;31m 9\x1b[m")
    assert reading.words == {"engine_version": "9"}


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (["assert", "out of memory"], "assertion"),
        (["out of memory", "assert"], "out-of-memory"),
        (["worker died", "assert"], "assertion"),
        (["assert", "worker died"], "assertion"),
        (["worker died"], "worker-died"),
        (["out of memory, assert"], "out-of-memory"),
        (["nothing"], None),
    ],
)
def test_the_first_cause_is_the_failure_and_a_summary_only_where_there_is_no_cause(lines, name):
    found = read(FAILURES, *lines).failure
    assert (found and found.signature.id) == name


def test_a_failure_keeps_its_line_and_figures():
    found = read(FAILURES, "  out of memory: 4.00 GiB \n", "out of memory: 9 GiB").failure
    assert found is not None
    assert (found.line, found.metrics) == ("out of memory: 4.00 GiB", {"allocation_gib": 4.0})


def test_the_first_summary_is_kept():
    found = read(FAILURES, "first died", "second died").summary
    assert found is not None
    assert found.line == "first died"


def test_facts_are_read_on_after_a_failure():
    both = Catalogue(fact=FACTS.fact, signature=FAILURES.signature)
    assert read(both, "assert", "size: 3 tokens").figures == {"kv_cache_tokens": 3.0}


SHIPPED = {backend.name: backend.catalogue for backend in (Vllm(), Sglang())}


@pytest.mark.parametrize("name", SHIPPED)
@given(lines=st.lists(st.text()))
def test_any_text_can_be_fed(name, lines):
    reading = read(SHIPPED[name], *lines)
    assert set(reading.figures) <= set(MEASURES)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("vllm", "Model loading took 1.2.3 GiB"),
        ("vllm", "Loading weights took . seconds"),
        ("vllm", "GPU KV cache size: , tokens"),
        (
            "sglang",
            "OutOfMemoryError: CUDA out of memory. Tried to allocate . GiB. GPU 0 has a total capacity of .. GiB",
        ),
    ],
)
def test_a_figure_that_is_no_number_is_no_reading(name, line):
    reading = read(SHIPPED[name], line)
    assert reading.figures == {}
    assert reading.failure is None or reading.failure.metrics == {}


@pytest.mark.parametrize("name", SHIPPED)
@given(data=st.data())
def test_any_line_that_a_pattern_matches_can_be_fed(name, data):
    """A pattern for digits and points also matches text that is no number."""
    known = SHIPPED[name]
    patterns = [*(each.regex for each in known.fact), *(each.regex for each in known.signature)]
    line = data.draw(st.sampled_from([each for each in patterns if "(?P<" in each]).flatmap(st.from_regex))
    reading = read(known, line)
    assert all(isinstance(figure, float) for figure in reading.figures.values())


@pytest.mark.parametrize("pattern", [each.regex for shipped in SHIPPED.values() for each in shipped.fact])
def test_no_fact_is_read_from_an_empty_line(pattern):
    assert re.search(pattern, "") is None


@pytest.mark.parametrize(
    ("regex", "complaint"),
    [
        ("(", r"signature\.0\.regex: not a regular expression"),
        (r"(?P<ttft>\d+)", r"signature\.0\.regex: unknown group 'ttft': did you mean 'ttft_s'\?"),
        (r"(?P<kv_cache_token>\d+)", "did you mean 'kv_cache_tokens'"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(regex, complaint):
    with pytest.raises(TableError, match=complaint):
        known(signature("s", regex))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"outcome": "explodes"}, r"signature\.0\.outcome: Input should be"),
        ({"version": "12"}, "must be a version range"),
        ({"near_mis": "n"}, "did you mean 'near_miss'"),
    ],
)
def test_a_signature_that_cannot_be_meant_is_refused(changes, complaint):
    with pytest.raises(TableError, match=complaint):
        known(signature("s", "x", **changes))


def test_a_catalogue_is_a_file(tmp_path):
    path = tmp_path / "engine.toml"
    path.write_text("[[fact]]\nregex = 'up'\nphase = 'serve'\n", encoding="utf-8")
    assert read(diagnosis_signatures.load(path), "up").phase == "serve"


@pytest.mark.parametrize("backend", [Vllm, Sglang])
@pytest.mark.parametrize(("size", "gib"), [("4.00 GiB", 4.0), ("858.00 MiB", 858 / 1024), ("20.00 KiB", 20 / 1024**2)])
def test_an_out_of_memory_is_one_whatever_unit_it_is_given_in(backend, size, gib):
    """At tensor parallel 8 a buffer of a ten-million-token pool is 0.84 GiB, which PyTorch reports in MiB."""
    reading = LogReader(backend().catalogue)
    reading.feed(
        f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {size}. GPU 0 has a total capacity of 139.80 GiB"
    )
    assert reading.cause is not None
    assert reading.cause.signature.id == "gpu-out-of-memory"
    assert reading.cause.metrics.get("allocation_gib") == gib
