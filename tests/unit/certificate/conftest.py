"""Each test of this folder has the key of its endpoints in the environment."""

import pytest

from pytest_longctx import redaction
from tests.unit.certificate.endpoints import KEY


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("LONGCTX_API_KEY", KEY)
    yield KEY
    redaction.forget()
