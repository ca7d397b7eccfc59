"""Servers for the tests of one module."""

from contextlib import ExitStack

import pytest

from tests.unit.miniatures.hosted import caller


@pytest.fixture
def serve():
    """``serve("drops-head", limit=2048)``: a served miniature."""
    with ExitStack() as stack:
        yield lambda name="honest", **options: caller.start(stack, name, **options)
