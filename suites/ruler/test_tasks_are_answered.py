"""Which score do the answers to a task of RULER have, at an exact length?"""

import pytest

from pytest_longctx.findings import retrieval


@pytest.mark.judges("ruler")
def test_tasks_are_answered(finding, boot, server, prompt, ask, judge, longctx_session):
    """If this fails, a model answers a published long-context task worse at this length than the finding allows."""
    answers = []
    for length in finding.ask.lengths:
        for _ in range(finding.ask.runs):
            posed = prompt.ruler(finding.ask.task, length, finding.ask.form)
            exchange = ask(posed.prompt, finding.ask.output_tokens, stops=True)
            answers.append((posed, boot.weigh(exchange), exchange.text))
            if exchange.ending == "complete" and len(posed.depths) == 1:
                longctx_session.note_found(server, length, [(posed.depths[0], posed.score(exchange.text))])
    verdict = judge(retrieval.from_ruler(answers))
    assert verdict
