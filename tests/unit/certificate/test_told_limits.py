"""The limit is found in the refusals of all providers that tell it."""

import pytest

from pytest_longctx.certificate.reply import numbers, told
from pytest_longctx.miniatures.hosted.refusals import REFUSALS, OverLength

SILENT = {"openai-without-numbers"}
REQUESTS = [OverLength(8192, 8193, 1), OverLength(8192, 16_384, 1), OverLength(128_000, 128_001, None)]


@pytest.mark.parametrize("name", sorted(set(REFUSALS) - SILENT))
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: str(each.prompt))
def test_the_told_limit_is_read(name, request_):
    text = str(REFUSALS[name](request_)[1])
    assert told(text) == [request_.limit]
    assert numbers(text)[0] == request_.limit


@pytest.mark.parametrize("name", sorted(SILENT))
def test_nothing_is_read_where_nothing_is_told(name):
    assert numbers(str(REFUSALS[name](REQUESTS[0])[1])) == []
