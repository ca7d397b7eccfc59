"""Endpoints to certify: hosted APIs in miniature, and the runs against them."""

from contextlib import ExitStack

from pytest_longctx.certificate import run
from pytest_longctx.certificate.budget import Budget
from pytest_longctx.certificate.run import Certificate
from pytest_longctx.miniatures.hosted.api import HostedApi
from pytest_longctx.miniatures.hosted.faults import FAULTS
from pytest_longctx.miniatures.hosted.faults.path import Elsewhere
from pytest_longctx.miniatures.hosted.wire import serving

KEY = "sk-certificate-test-1"
LIMIT = 16_384


def certified(api: HostedApi, **wanted) -> Certificate:
    """The certificate of *api*, which is served meanwhile. Waits after a 429 are skipped."""
    with serving(api) as url:
        asked = run.Wanted(url, **{"seed": 1, "deadline_s": 20.0, "budget": Budget(4_000_000), **wanted})
        wire = asked.wire()
        wire.sleep = lambda _: None
        return run.certify(asked, wire)


def certified_fault(name: str, **options) -> Certificate:
    """The certificate of a miniature with the fault *name*."""
    options = {"limit": LIMIT, "key": KEY, "pages": True, **options}
    with ExitStack() as stack:
        if name == "redirects-elsewhere":
            other = stack.enter_context(serving(Elsewhere(HostedApi())))
            options["elsewhere"] = other.replace("127.0.0.1", "localhost")
        return certified(FAULTS[name](**options))


def words(certificate: Certificate, word: str) -> list[str]:
    """Ids of the checks with this verdict."""
    return [each.check for each in certificate.results if each.word == word]


def result(certificate: Certificate, check: str):
    """The result of *check*."""
    return next(each for each in certificate.results if each.check == check)
