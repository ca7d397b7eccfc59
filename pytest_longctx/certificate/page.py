"""Outputs of a certificate: lines for a terminal, an HTML page, JSON, and a Markdown badge."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from pytest_longctx import paths
from pytest_longctx.certificate.results import Word
from pytest_longctx.certificate.run import Certificate
from pytest_longctx.errors import UsageError
from pytest_longctx.redaction import shown
from pytest_longctx.units import duration

WORDS: tuple[Word, ...] = ("broken", "unmeasured", "holds")
_COLOURS = {"broken": "red", "unmeasured": "lightgrey", "holds": "green"}


def lines(certificate: Certificate) -> Iterator[str]:
    """Yield the certificate as lines for a terminal, broken checks first."""
    for word in WORDS:
        for result in certificate.results:
            if result.word == word == "holds":
                yield f"{result.check}: holds: {result.seen}"
            elif result.word == word:
                yield from result.lines()
    model = certificate.model or "its only model"
    yield ""
    yield f"{certificate.url} serves {certificate.headline} ({model}); {certificate.interval}"
    if certificate.read_tokens:
        yield f"a natural text of {certificate.read_tokens:,} tokens was read completely"
    spent = certificate.budget
    cost = "" if spent["cost"] is None else f", ${spent['cost']:.4f}"
    yield (
        f"{summary(certificate)}; sent {spent['requests']} requests with {spent['prompt_tokens']:,} + "
        f"{spent['answer_tokens']:,} tokens{cost}; seed {certificate.seed}"
    )


def summary(certificate: Certificate) -> str:
    """Return the summary of a certificate: the number of checks with each verdict."""
    return ", ".join(f"{certificate.count(word)} {word}" for word in WORDS if certificate.count(word))


def as_json(certificate: Certificate) -> str:
    """Return the certificate as JSON text."""
    return json.dumps(certificate.as_json(), indent=1)


def badge(certificate: Certificate) -> str:
    """
    Return the badge of a certificate as one line of Markdown: the served length and the verdicts.

    shields.io draws the image from the text in its address.
    """
    word = next((word for word in WORDS if certificate.count(word) and word != "unmeasured"), "unmeasured")
    length = f"{certificate.context or certificate.longest:,} tokens" if certificate.longest else "not measured"
    length += " or more" if certificate.longest and not certificate.bounded else ""
    text = f"{length}, {summary(certificate)}"
    escaped = (quote(each.replace("-", "--").replace("_", "__"), safe="") for each in ("long context", text))
    picture = f"https://img.shields.io/badge/{'-'.join(escaped)}-{_COLOURS[word]}"
    day = certificate.started[:10]
    plain = shown(f"{certificate.url} {certificate.model or ''}", certificate.secrets).strip()
    return f"![long context: {text}]({picture}) {plain}, {day}, pytest-longctx {certificate.version}\n"


def check_html() -> None:
    """Raise `UsageError`, before any request, unless Jinja2 is installed, which the HTML page needs."""
    try:
        import jinja2  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise UsageError("--html needs Jinja2, which is not installed: pip install 'pytest-longctx[report]'") from None


def html(certificate: Certificate) -> str:
    """Return the certificate as an HTML page that loads no other file."""
    check_html()
    from jinja2 import Environment, PackageLoader  # noqa: PLC0415 - an extra

    loader = PackageLoader("pytest_longctx.certificate", ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(duration=duration)
    made = certificate.as_json()
    groups: dict[str, list[object]] = {}
    for result in made["results"]:
        groups.setdefault(result["group"], []).append(result)
    head = {"headline": certificate.headline, "summary": summary(certificate), "groups": groups}
    return environment.get_template("certificate.html.j2").render(**made, **head)


def write(certificate: Certificate, *, html_to: Path | None, json_to: Path | None, markdown_to: Path | None) -> None:
    """Write the requested files of a certificate: HTML page, JSON and Markdown badge."""
    for path, make in ((html_to, html), (json_to, as_json), (markdown_to, badge)):
        if path is not None:
            paths.write(path, make(certificate))
