"""Servers that cannot be asked, or have one answer for every question, one class each."""

from pytest_longctx.miniatures.request import Request, spared
from pytest_longctx.miniatures.server import Honest, Instead

_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Sign in to go on.</body></html>"
_TRACEBACK = """Traceback (most recent call last):
  File "miniature/serving_completions.py", line 506, in _build_completion_response
    text = ret_item["text"]
KeyError: 'text'"""


class WantsKey(Honest):
    """Answers 401 to everything, whatever key comes with it."""

    def instead(self, method: str, path: str) -> Instead | None:
        return Instead(401, b'{"error": "Unauthorized"}')


class Forbids(Honest):
    """Answers 403 to everything."""

    def instead(self, method: str, path: str) -> Instead | None:
        return Instead(403, b'{"error": "Forbidden"}')


class Answers500(Honest):
    """Comes up, and answers every completion with an error of its own; the exception is in its log."""

    def instead(self, method: str, path: str) -> Instead | None:
        if method != "POST":
            return None
        print(f"ERROR: Exception in ASGI application\n{_TRACEBACK}", flush=True)
        return Instead(500, b'{"error": {"message": "\'text\'", "type": "InternalServerError", "code": 500}}')


class HasNoCompletions(Honest):
    """Has all but the endpoint that matters."""

    def instead(self, method: str, path: str) -> Instead | None:
        return Instead(404, b'{"detail": "Not Found"}') if path.startswith("/v1/completions") else None


class IsAWebPage(Honest):
    """Answers everything with a web page."""

    def instead(self, method: str, path: str) -> Instead | None:
        return Instead(200, _PAGE, "text/html; charset=utf-8")


class LosesItsRoute(Honest):
    """Looks ready, and has no endpoint any more when a long prompt comes, as behind a gateway that was configured anew."""

    def instead_of(self, request: Request) -> Instead | None:
        return None if spared(request) else Instead(404, b'{"detail": "Not Found"}')
