"""Does an answer depend on the right tokens, at any distance?"""

import pytest

from pytest_longctx.findings import retrieval
from pytest_longctx.probe import grading, questions, registry
from pytest_longctx.prompts import needles


@pytest.mark.judges("retrieval")
def test_needles_are_found(finding, boot, server, prompt, ask, judge, longctx_session):
    """If this fails, a part of the context is lost or mixed up; the failing depth indicates which part."""
    asked = finding.ask
    length = asked.prompt_length(server.max_model_len)
    windows = registry.windows(server.deployment.model.make)
    places = questions.spread(length, asked.needles, windows)
    if asked.border_tokens is not None:
        places = questions.borders(length, asked.border_tokens, asked.needles)
    question = questions.plant(prompt(length), places, windows)
    exchange = ask(question.prompt, question.output_tokens)
    graded = grading.text(question, exchange.text)
    longctx_session.note_found(server, length, retrieval.places(graded))
    verdict = judge(retrieval.from_probe(boot.weigh(exchange), graded))
    assert verdict


@pytest.mark.judges("precision")
def test_keys_keep_their_precision(finding, boot, server, prompt, ask, judge):
    """If this fails, the KV cache stores keys with less or more precision than its dtype implies."""
    rungs = grading.plant(prompt(finding.ask.prompt_length(server.max_model_len)))
    exchange = ask(rungs.prompt, rungs.output_tokens)
    verdict = judge(retrieval.measured(boot.weigh(exchange), grading.ladder_text(exchange.text)))
    assert verdict


@pytest.mark.judges("haystack")
def test_facts_in_text_are_found(finding, boot, server, prompt, ask, judge, longctx_session):
    """If this fails, a model with real weights no longer finds a sentence in a long text at some length or depth."""
    answers = []
    hide = prompt.needle_chat if finding.ask.form == "chat" else prompt.needle
    for length in finding.ask.lengths:
        for depth in finding.ask.depths:
            haystack = hide(length, depth)
            exchange = ask(haystack.prompt, finding.ask.output_tokens)
            answers.append((haystack, boot.weigh(exchange), exchange.text))
            if exchange.ending == "complete":
                found = needles.score(exchange.text, haystack.needle.expected)
                longctx_session.note_found(server, length, [(haystack.depth, float(found))])
    verdict = judge(retrieval.from_haystacks(answers))
    assert verdict


@pytest.mark.judges("continuations")
def test_sentences_are_continued(finding, boot, prompt, ask, judge):
    """If this fails, the server answers, but its weights or their arithmetic are wrong: any working model knows these words."""
    answers = []
    for text, expected in finding.ask.continuations.items():
        exchange = ask(prompt.written(text), finding.ask.output_tokens)
        answers.append((text, expected, boot.weigh(exchange), exchange.text))
    verdict = judge(retrieval.from_continuations(answers))
    assert verdict
