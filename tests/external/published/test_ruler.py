"""
RULER's tasks and scores against the implementation that publishes them, on the same prompts.

Needs its packages: ``longctx data ruler``; skipped without them. The published code runs in this process, from the checked wheel.
"""

import ast
import json
import random
import re
import string
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_longctx.prompts.ruler import published_data
from pytest_longctx.prompts.ruler.build import build
from pytest_longctx.prompts.ruler.tasks import LONG_TOKENS, TASKS, TRACKED_HOPS
from tests.unit import tokenizers

PROMPTS_OF_EACH = 16
pytestmark = pytest.mark.skipif(
    not all(each.path.is_file() for each in published_data.WHEELS), reason="longctx data ruler was not run"
)


def published(member):
    with zipfile.ZipFile(published_data.RULER.path) as packed:
        return packed.read(f"long_context_eval/{member}").decode()


@pytest.fixture(scope="module")
def evaluation():
    """Return the published metric of each kind of task, and what it does to an answer before."""
    names: dict[str, Any] = {}
    exec(published("eval/synthetic/constants.py"), names)
    tree = ast.parse(published("eval/evaluate.py"))
    (cleaning,) = [node for node in tree.body if getattr(node, "name", "") == "postprocess_pred"]
    names["re"] = re
    exec(ast.unparse(cleaning), names)
    return names["TASKS"], names["postprocess_pred"]


@pytest.fixture(scope="module")
def asked():
    """Return 208 prompts with answers that are right, partly right, wrong or odd."""
    read, found, draw = tokenizers.vocabulary("llama3"), [], random.Random(1)
    for name in TASKS:
        for number in range(PROMPTS_OF_EACH):
            rng = np.random.default_rng([number, len(name)])
            posed = build(name, published_data.material(), read, 6000, rng, "text")
            assert read.count(posed.text, special=True) == 6000
            found.append((posed, answer(posed, draw)))
    return found


def answer(posed, draw):
    """Return some of the expected texts among others, in some case, with control characters and spaces around them."""
    some = [each for each in posed.expected if draw.random() < 0.6]
    words = some + ["".join(draw.choices(string.ascii_letters, k=6)) for _ in range(draw.randrange(4))]
    draw.shuffle(words)
    text = draw.choice([" ", ", ", "\n", "\x00", "\t", ""]).join(words)
    text = draw.choice([str, str.upper, str.lower, str.title])(text)
    return draw.choice(["", "\x1f ", "\n\n"]) + text + draw.choice(["", " \x07", "."])


def test_scores_equal_the_published_ones_on_208_prompts(asked, evaluation):
    tasks, cleaned = evaluation
    compared = 0
    for name, task in TASKS.items():
        own = [(posed, text) for posed, text in asked if posed.task.name == name]
        predictions = [cleaned(text, {}) for _, text in own]
        references = [list(posed.expected) for posed, _ in own]
        each = tasks[task.kind]["metric_fn_per_sample"](predictions, references)
        scores = [posed.score(text) for posed, text in own]
        assert [100 * score for score in scores] == pytest.approx(each, abs=1e-9)
        assert round(100 * sum(scores) / len(scores), 2) == tasks[task.kind]["metric_fn"](predictions, references)
        compared += len(own)
        assert len({*scores}) > 1, "answers of one score would prove little"
    assert compared == 208


def test_the_parameters_are_those_of_the_published_configuration():
    yaml = pytest.importorskip("yaml")
    wanted = yaml.safe_load(published("synthetic.yaml"))
    assert set(wanted) == set(TASKS)
    templates = published_data.material().templates
    names: dict[str, Any] = {}
    exec(published("data/synthetic/constants.py"), names)
    for name, task in TASKS.items():
        given = wanted[name]["args"]
        assert task.kind == wanted[name]["task"]
        assert task.output_tokens == names["TASKS"][task.kind]["tokens_to_generate"]
        assert templates[task.kind].startswith(names["TASKS"][task.kind]["template"])
        if task.kind == "niah":
            ours = (task.hay, task.keys, task.values, task.value_count, task.query_count)
            kinds = ("type_haystack", "type_needle_k", "type_needle_v", "num_needle_v", "num_needle_q")
            assert ours == tuple(given[each] for each in kinds)
            assert task.key_count == max(given["num_needle_k"], given["num_needle_q"])
        if task.kind == "qa":
            assert task.questions == given["dataset"]
    assert wanted["vt"]["args"] == {"num_chains": 1, "num_hops": TRACKED_HOPS}
    assert wanted["cwe"]["args"] == {"freq_cw": 30, "freq_ucw": 3, "num_cw": 10}
    assert wanted["fwe"]["args"] == {"alpha": 2.0}
    assert f"args.max_seq_length < {LONG_TOKENS}" in published("data/synthetic/common_words_extraction.py")


def test_answers_of_a_trained_model_have_the_published_scores(evaluation):
    """The recorded answers of SmolLM2, with the scores that were recorded when they were given."""
    tasks, cleaned = evaluation
    folder = Path(__file__).parents[3] / "docs/results/vllm-0.32.0-cpu/ruler"
    rows = [json.loads(line) for line in (folder / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 66
    for row in rows:
        metric = tasks[TASKS[row["task"]].kind]["metric_fn_per_sample"]
        (wanted,) = metric([cleaned(row["answer"], {})], [row["expected"]])
        assert 100 * row["score"] == pytest.approx(wanted, abs=1e-9)
