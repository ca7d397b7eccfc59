"""What a deployment comes to on hardware that was typed."""

import pytest

from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.deployments.deployment import Deployment, Model, load_deployments
from pytest_longctx.errors import UsageError
from pytest_longctx.plan import predict_deployment

SCOUT = load_deployments()["h200x4-scout-vllm-10m"]
ELSEWHERE = SCOUT.model_copy(update={"backend": "ours"})


class Ours(Vllm):
    name = "ours"


def test_hardware_is_what_was_typed_else_what_the_deployment_needs():
    own, larger, smaller = (predict_deployment(SCOUT, hardware) for hardware in (None, "4xB200", "4xH100"))
    assert own == predict_deployment(SCOUT, "4xH200")
    assert own is not None
    assert larger is not None
    assert smaller is not None
    assert smaller.longest_tokens < own.longest_tokens < larger.longest_tokens
    assert (own.fits, smaller.fits) == (True, False)


def test_what_is_not_known_of_is_not_predicted():
    assert predict_deployment(SCOUT, "4xtrn2") is None
    unknown = SCOUT.model_copy(update={"model": Model(name="of an unknown shape", id="nobody/has-it")})
    assert predict_deployment(unknown) is None


def test_a_backend_that_does_not_ship_is_given():
    assert predict_deployment(ELSEWHERE, backend=Ours()) == predict_deployment(SCOUT)
    with pytest.raises(UsageError, match="unknown backend 'ours'"):
        predict_deployment(ELSEWHERE)


@pytest.mark.parametrize(
    ("hardware", "complaint"),
    [
        ("1xH200", r"needs 4 devices \(4xH200\), but 1xH200 has 1"),
        ("cpu", r"needs 4 devices \(4xH200\), but cpu has 1"),
        ("4xH2O0", r"'4xH2O0' must be hardware: devices and their kind \(8xH200\), "),
    ],
)
def test_hardware_that_cannot_be_is_refused(hardware, complaint):
    with pytest.raises(UsageError, match=complaint):
        predict_deployment(SCOUT, hardware)


def test_a_deployment_that_names_no_hardware_needs_some():
    anywhere = Deployment(name="anywhere", title="", backend="vllm", model=SCOUT.model, max_model_len=1000)
    with pytest.raises(
        UsageError, match="predict anywhere: the deployment names no hardware; give one, for example '8xH200'"
    ):
        predict_deployment(anywhere)
    assert predict_deployment(anywhere, "8xH200") is not None
