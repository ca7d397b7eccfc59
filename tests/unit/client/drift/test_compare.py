"""Figures of two readings, their file, and what a server may answer."""

import numpy as np
import pytest

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.client.drift import readings
from pytest_longctx.client.drift.compare import RESOLUTION_NATS, compare
from pytest_longctx.client.drift.readings import Readings
from pytest_longctx.client.exchange import UnservedError
from pytest_longctx.errors import ResultsError
from pytest_longctx.miniatures.request_faults import Answers500, CoarseCache, GarbledCache, HasNoCompletions, IsAWebPage
from pytest_longctx.miniatures.scoring import Predictor
from pytest_longctx.miniatures.server import Honest
from pytest_longctx.processes.progress import no_progress
from tests.unit.fake_engine import prompts, serving


class Exact(Honest):
    """Reads a text alike in any company."""

    predictor = Predictor(noise=0.0)


def read(mind, count=2, tokens=100):
    draw = prompts()
    with serving(mind, Miniature()) as server:
        return readings.read(server, [draw(tokens) for _ in range(2)], count, no_progress)


def figures(one, other) -> dict[str, float]:
    """The figures of a comparison, all of which are there."""
    return {name: value for name, value in compare(one, other).metrics.items() if value is not None}


def test_a_server_without_noise_has_no_drift_from_itself():
    one, other = read(Exact()), read(Exact())
    found = figures(one, other)
    assert found["drift_nats"] == found["drift_noise_nats"] == found["drift_ratio"] == 0
    assert found["argmax_changed_share"] == found["text_lost_nats"] == found["drift_repeats_apart"] == 0
    assert found["drift_positions"] == 2 * 99
    assert found["drift_repeats"] == 1


def test_fifty_repeats_of_the_same_model_are_within_noise():
    found = figures(read(Honest(), 100, 40), read(Honest(), 100, 40))
    assert found["drift_repeats"] == 50
    assert found["drift_repeats_apart"] == 0


@pytest.mark.parametrize(("mind", "least"), [(CoarseCache(), 1e-3), (GarbledCache(), 1.0)])
def test_a_wrong_cache_stands_out_in_each_figure(mind, least):
    found = figures(read(Exact()), read(mind))
    assert found["drift_nats"] > least
    assert found["drift_p999_nats"] >= found["drift_nats"]
    assert found["drift_ratio"] == pytest.approx(found["drift_nats"] / RESOLUTION_NATS)
    assert found["argmax_changed_share"] > 0
    assert found["drift_repeats_apart"] == 1


def test_a_curve_covers_every_position_once():
    found = compare(read(Exact(), tokens=100), read(CoarseCache(), tokens=100))
    assert [each[:2] for each in found.curve] == [(1, 16), (16, 32), (32, 64), (64, 100)]
    weights = [each.to_tokens - each.from_tokens for each in found.curve]
    mean = np.average([each.drift_nats for each in found.curve], weights=weights)
    assert mean == pytest.approx(found.metrics["drift_nats"])


def test_readings_of_other_texts_or_counts_are_refused():
    one = read(Exact())
    for other in (read(Exact(), 4), read(Exact(), tokens=50), Readings("other", one.reads), Readings(one.texts, ())):
        with pytest.raises(ResultsError, match="different texts or different numbers of reads"):
            compare(one, other)


def test_readings_are_written_and_read(tmp_path):
    one = read(CoarseCache(), 4)
    path = readings.path_of(tmp_path / "drift", "tiny", one.texts, 4)
    readings.save(Readings(one.texts, one.reads, {"engine": "vllm 1"}), path)
    again = readings.load(path)
    assert (again.texts, again.facts) == (one.texts, {"engine": "vllm 1"})
    assert compare(one, again).metrics == compare(one, one).metrics


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all", b"\x93NUMPY"])
def test_a_file_without_readings_is_named(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(ResultsError, match=r"a\.npz: must be a file of readings"):
        readings.load(path)


def test_a_cut_file_and_a_changed_shape_are_named(tmp_path):
    path = tmp_path / "a.npz"
    readings.save(read(Exact()), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResultsError, match="must be a file of readings"):
        readings.load(path)
    path.write_bytes(whole)
    with np.load(path) as found:
        parts = {name: found[name] for name in found.files}
    np.savez(path, **{**parts, "said": parts["said"][:, :, 1:]})
    with pytest.raises(ResultsError, match="shapes"):
        readings.load(path)


@pytest.mark.parametrize(
    ("mind", "outcome"), [(Answers500(), "fails"), (HasNoCompletions(), None), (IsAWebPage(), None)]
)
def test_a_server_that_gives_no_scores_is_evidence_of_what_it_did(mind, outcome):
    with pytest.raises(UnservedError) as caught:
        read(mind)
    assert caught.value.exchange.observe().outcome == outcome


class Wordy(Honest):
    """Sends more than any answer can have."""

    def scores(self, path, body):
        return {"choices": [], "padding": "x" * 3_000_000}


def test_an_answer_without_end_is_cut_off():
    with pytest.raises(UnservedError) as caught:
        read(Wordy())
    assert "more than" in caught.value.exchange.detail
