"""Which score do the answers to a task of RULER have, at an exact length?"""

import pytest

from pytest_longctx.findings import retrieval
from pytest_longctx.probe import hidden_tasks


@pytest.mark.judges("ruler")
def test_tasks_are_answered(finding, boot, server, prompt, ask, judge, longctx_session):
    """If this fails, a published long-context task is answered worse at this length than the finding allows."""
    answers, asked, model = [], finding.ask, server.deployment.model
    for length in asked.lengths:
        for _ in range(asked.runs):
            if model.weights == "probe":
                posed = hidden_tasks.pose(asked.task, prompt(length), model.make)
                exchange = ask(posed.prompt, len(posed.expected))
            else:
                posed = prompt.ruler(asked.task, length, asked.form)
                exchange = ask(posed.prompt, asked.output_tokens, stops=True)
            answers.append((posed, boot.weigh(exchange), exchange.text))
            if exchange.ending == "complete" and len(posed.depths) == 1:
                longctx_session.note_found(server, length, [(posed.depths[0], posed.score(exchange.text))])
    verdict = judge(retrieval.from_ruler(answers))
    assert verdict
