"""Is a prompt of this length served and counted exactly?"""

import pytest

from pytest_longctx.prompts.text import Text


@pytest.mark.judges("served")
def test_length_is_served(finding, server, prompt, ask, judge):
    """If this fails, a context length that was served before is not, or is slower than documented."""
    asked = finding.ask
    length = asked.prompt_length(server.max_model_len)
    written = None if asked.text is None else Text(asked.text, length, 0, "documented")
    exchanges = [ask(written or prompt(length), asked.output_tokens) for _ in range(asked.warm_up + asked.runs)]
    verdict = judge(exchanges[asked.warm_up :])
    assert verdict
