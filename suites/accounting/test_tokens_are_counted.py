"""Does the server count the tokens it was sent, on both sides of every border?"""

from itertools import cycle, islice

import pytest

from pytest_longctx.client.exchange import tally

BORDERS = (16, 64, 128, 256, 512, 2048, 8192)
"""Lengths at which KV-cache blocks, prefill chunks and attention chunks end."""

SHORTEST_TEXT = 63
"""Shortest text in tokens: the digits that make it new, a chat template, and some words."""


@pytest.mark.judges("accounting")
def test_tokens_are_counted(finding, server, prompt, ask, judge):
    """If this fails, figures per token from this server are unreliable."""
    room = (server.max_model_len or 2 * max(BORDERS)) - 5
    lengths = [1, *(length for border in BORDERS for length in (border - 1, border, border + 1) if length <= room)]
    make = {"ids": prompt, "text": prompt.text, "chat": prompt.chat}[finding.ask.form]
    if finding.ask.form != "ids":
        lengths = [length for length in lengths if length >= SHORTEST_TEXT]
    exchanges = []
    for i, length in enumerate(islice(cycle(lengths), finding.ask.requests or len(lengths))):
        exchanges.append(ask(make(length), 1 + i % 5))
        if exchanges[-1].ending != "complete":
            break
    verdict = judge(tally(exchanges))
    assert verdict
