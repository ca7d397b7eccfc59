"""Twelve planted secrets, searched in ten forms in every file and every line that whole runs of the package leave."""

import base64
import html
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pytest_longctx import cli, redaction
from pytest_longctx.miniatures.hosted.api import HostedApi
from pytest_longctx.miniatures.hosted.calls import Answer, Call, Post, Reply, RequestError, Whole
from pytest_longctx.miniatures.hosted.refusals import OverLength, error
from pytest_longctx.miniatures.hosted.tokens import Ids
from pytest_longctx.miniatures.hosted.wire import serving
from tests.conftest import FAULTY
from tests.hostile.servers import CHUNK, METRICS, ROW, USAGE, Hostile, events, just, listening, stream, whole

BEARER = "sk-bearer-9f3c71d2a8e64b05"
FILE = "file-token-51b7e0c9d3f2"
QUOTED = 'it\'s-"quoted"-7c1e9a40'
ESCAPED = 'sk-back\\slash-"json"-3d92c7'
LOGIN = "p@ss@word-4f2ab81c"
QUERY = "query-key-e61d0a97c4"
HF = "hf_QwErTyUiOpAsDfGhJkLzXcVbNm012345"
FLAG = "flag-secret-b04c8e17d5"
PRINTED = "printed-b7d40e92fa61c3"
CLUSTER = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJydW4tN2M0ZiJ9.c2lnbmF0dXJlLTRkMmE"
PROXY = "proxy-pass-80ce4d2b9a"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC7d1f\nKjc4Zk2mQ0aXb9yTt5wPq8LsVn3RzHd6\n-----END PRIVATE KEY-----"

VARIABLES = {
    "HF_TOKEN": HF,
    "FILE_API_KEY": f"{FILE}\n",
    "QUOTED_SECRET": QUOTED,
    "ESCAPED_KEY": ESCAPED,
    "CLUSTER_TOKEN": CLUSTER,
    "HTTPS_PROXY": f"http://proxyuser:{PROXY}@proxy.invalid:3128",
    "TLS_KEY": PEM,
}
"""Secrets that the environment tells, by variables as users have them."""
TOLD = {"bearer": BEARER, "line end": FILE, "quotes": QUOTED, "backslash": ESCAPED, "Hugging Face": HF}
TOLD |= {"cluster": CLUSTER, "proxy": PROXY, "PEM": PEM.splitlines()[1], "flag": FLAG, "login": LOGIN}
PLANTED = {**TOLD, "query": QUERY, "printed": PRINTED}
FORMS: Mapping[str, Callable[[str], str]] = {
    "raw": str,
    "shell": shlex.quote,
    "repr": repr,
    "json": json.dumps,
    "percent": lambda secret: quote(secret, safe=""),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "login in base64": lambda secret: base64.b64encode(f"user:{secret}".encode()).decode(),
    "hex": lambda secret: secret.encode().hex(),
    "upper hex": lambda secret: secret.encode().hex().upper(),
    "html": html.escape,
}
WRAPS: tuple[Callable[[str], str], ...] = (
    lambda text: f"{text[: len(text) // 2]}\n    {text[len(text) // 2 :]}",
    lambda text: f"| {text[: len(text) // 2]:<70} |\n| {text[len(text) // 2 :]:<70} |",
)
"""A line that a program broke: with an indent, and within a drawn box."""
CARRIED = (
    f"GET http://127.0.0.1:8000/v1/models?api_key={QUERY} HTTP/1.1",
    f"non-default args: {{'model': 'm', 'api_key': ['{PRINTED}'], 'port': 8000}}",
    f'body={{"api_key": "{PRINTED}"}} Authorization: Bearer {PRINTED}',
)
"""Secrets that only the log knows, as it has them."""


def written(secret: str) -> list[str]:
    """*secret* in every form, whole and broken."""
    made = [make(secret) for make in FORMS.values()]
    return [*made, *(wrap(form) for form in made for wrap in WRAPS)]


def squashed(text: str) -> str:
    return re.sub(r"\\n|[^A-Za-z0-9]", "", text)


def core(secret: str, form: str) -> str:
    """What of the form must not remain, whatever stands between its letters: twelve of its middle if it is Base64."""
    made = FORMS[form](secret).rstrip("=")
    if "base64" in form:
        return squashed(made[len(made) // 2 - 6 : len(made) // 2 + 6])
    return squashed(made)


def hits(texts: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Where, which secret, in which form. A piece of eight letters of a secret is a hit too."""
    cores = {(name, form): core(secret, form) for name, secret in PLANTED.items() for form in FORMS}
    pieces = {
        (name, f"piece {at}"): secret[at : at + 10] for name, secret in PLANTED.items() for at in range(len(secret) - 9)
    }
    found = []
    for place, text in texts.items():
        plain = squashed(text)
        found += [(place, *key) for key, each in cores.items() if each in plain]
        found += [(place, *key) for key, each in pieces.items() if each in text]
    return found


def files(folder: Path, *inputs: str) -> dict[str, str]:
    """Every file below *folder* except the *inputs*, which have secrets on purpose."""
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8", errors="replace")
        for path in folder.rglob("*")
        if path.is_file() and path.name not in inputs and path.suffix != ".pyc"
    }


def test_each_form_is_found_if_it_is_not_masked():
    """The search itself: each secret in each form is a hit, also in a string of JSON."""
    for name, secret in PLANTED.items():
        for form in FORMS:
            for text in (FORMS[form](secret), json.dumps(f"x {FORMS[form](secret)} y")):
                assert ("it", name, form) in hits({"it": text}), (name, form)
            for wrap in WRAPS:
                assert ("it", name, form) in hits({"it": json.dumps(wrap(FORMS[form](secret)))}), (name, form)
    assert len(PLANTED) == 12
    assert len(FORMS) == 10


PRINTS = """
import sys
for line in {lines!r}:
    print("ValueError: engine says " + line, flush=True)
"""


@dataclass
class Planted:
    """The inputs of a run: a deployment whose engine prints every secret in every form."""

    pytester: Any
    monkeypatch: Any

    def deployment(self, fault: str, **flags: str) -> list[str]:
        lines = [*CARRIED, *(each for secret in TOLD.values() for each in written(secret))]
        code = self.pytester.mkdir(f"code-{fault}")
        (code / "sitecustomize.py").write_text(PRINTS.format(lines=lines), encoding="utf-8")
        more = "".join(f"{name} = {json.dumps(value)}\n" for name, value in flags.items())
        text = FAULTY.format(fault=fault, boot_s=30, answer_s=30, stall_s=30)
        text = text.replace("crawl-s = 0.02\n", f"crawl-s = 0.02\n{more}")
        env = {**VARIABLES, "PYTHONPATH": str(code), "PYTHONIOENCODING": "utf-8", "PRINTED_PASSWORD": LOGIN}
        text += "[env]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in env.items())
        (self.pytester.path / f"{fault}.toml").write_text(text, encoding="utf-8")
        return ["--backend=miniature", f"--longctx-deployment={fault}.toml"]

    def environment(self) -> None:
        for name, value in VARIABLES.items():
            self.monkeypatch.setenv(name, value)
        self.monkeypatch.setenv("LONGCTX_API_KEY", BEARER)
        self.monkeypatch.setenv("FLAG_TOKEN", FLAG)
        self.monkeypatch.setenv("LOGIN_PASSWORD", LOGIN)
        self.monkeypatch.setenv("NO_PROXY", "*")
        self.monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(self.pytester.path / "summary.md"))


@pytest.fixture
def planted(pytester, monkeypatch):
    made = Planted(pytester, monkeypatch)
    made.environment()
    return made


REPORTED = ("--longctx-github", "--longctx-report=report.html", "--junitxml=report.xml", "-rA")


def left(done, *wanted: str) -> dict[str, str]:
    """All that a run of pytest left, and what it printed."""
    found = files(done.folder, "sitecustomize.py", "exits-at-boot.toml", "honest.toml", "tox.ini")
    assert {"report.xml", *wanted} <= set(found)
    return {"the terminal": done.text, **found}


@pytest.mark.parametrize("fault", ["exits-at-boot", "honest"])
def test_no_secret_is_in_what_a_run_leaves(fault, run, planted):
    more = {"api-key": FLAG} if fault == "exits-at-boot" else {}
    done = run(*planted.deployment(fault, **more), *REPORTED, "-m", "smoke")
    assert "again" in done.text or fault == "honest"
    found = left(done, "report.html", "summary.md", "results/results.jsonl")
    (log,) = [text for name, text in found.items() if name.endswith(".log")]
    assert "engine says" in log
    if more:
        assert "--api-key" in log, "the engine itself repeats the flag"
    assert hits(found) == []


def echo() -> dict[str, Any]:
    """Pages of a server that repeats every secret in every form wherever it may."""
    said = " ".join([*CARRIED, *(each for secret in TOLD.values() for each in written(secret))])
    label = quote(said, safe=" ")[:4000]
    return {
        "models": just(whole({"object": "list", "data": [{**ROW, "root": said}]})),
        "version": just(whole({"version": f"0.12.0+{BEARER}", "said": said})),
        "metrics": just(whole(METRICS + f'other{{said="{label}"}} 1\n', 200, "text/plain")),
        "token": just(whole({"choices": [{"text": said[:60]}], "usage": USAGE["usage"]})),
        "stream": just(stream(events(*[{"choices": [{**CHUNK["choices"][0], "text": BEARER}]}] * 3, USAGE))),
    }


def refusing() -> dict[str, Any]:
    said = "\n".join(each for secret in TOLD.values() for each in written(secret))
    body = {"error": {"message": f"bad key {BEARER}: {said}", "code": 400}}
    return {**echo(), "stream": just(whole(body, 400)), "token": just(whole(body, 400))}


ATTACHED = """
def test_it(server, ask, prompt):
    exchange = ask(prompt(100), 4)
    assert exchange.text == "other"
"""


@pytest.mark.parametrize("pages", [echo, refusing], ids=lambda each: each.__name__)
def test_no_secret_is_in_what_a_run_on_a_server_leaves(pages, run, planted):
    path = planted.pytester.makepyfile(ATTACHED)
    (planted.pytester.path / "served.toml").write_text(
        'name = "served"\ntitle = "t"\nbackend = "vllm"\nmax_model_len = 4096\n[model]\nname = "llama"\nweights = "unknown"\n'
        "[timeouts]\nboot_s = 20.0\nanswer_s = 10.0\ncanary_s = 10.0\n",
        encoding="utf-8",
    )
    with listening(Hostile(pages())) as url:
        done = run(
            "--backend=vllm",
            "--longctx-deployment=served.toml",
            f"--longctx-launcher=url:{url.replace('//', f'//me:{LOGIN}@')}",
            *REPORTED,
            "--longctx-allow-unjudged",
            what=str(path),
        )
    assert "1 passed" not in done.text
    assert "***" in done.text
    assert hits(left(done)) == []


@dataclass
class Echoing(HostedApi):
    """It repeats every secret in its errors and in its answers."""

    said: str = ""

    def admit(self, post: Post) -> None:
        try:
            super().admit(post)
        except RequestError as refused:
            raise RequestError(f"{refused.message} {self.said}", status=refused.status, code=refused.code) from None

    def too_long(self, call: Call, over: OverLength) -> Reply:
        status, said = super().too_long(call, over), self.said
        assert isinstance(status, Whole)
        message = f"{status.body['error']['message']} {said}"
        return Whole(status.status, error(message))

    def generated(self, call: Call, kept: Ids, cached: int) -> Answer:
        answer = super().generated(call, kept, cached)
        parts = [
            part + each
            for part, each in zip(answer.parts, [BEARER, " ", LOGIN, *[""] * len(answer.parts)], strict=False)
        ]
        return Answer(parts, answer.tokens, answer.finish)


def certificate(tmp_path, capsys, url, *more):
    exit_status = cli.main(
        [
            *("certify", url, "--model=miniature", "--budget=3M", "--timeout=20", "--seed=1", "--yes", *more),
            *(f"--{kind}={tmp_path / f'certificate.{kind}'}" for kind in ("html", "json", "markdown")),
        ]
    )
    said = capsys.readouterr()
    return exit_status, {"output": said.out, "errors": said.err, **files(tmp_path)}


@pytest.mark.parametrize("how", ["bearer", "login"])
def test_no_secret_is_in_a_certificate(how, planted, tmp_path, capsys, monkeypatch):
    said = " ".join([*CARRIED, *(each for secret in TOLD.values() for each in written(secret))])
    name = "ESCAPED_KEY" if how == "bearer" else "NO_SUCH_KEY"
    api = Echoing(limit=8192, key=ESCAPED if how == "bearer" else None, said=said, pages=True)
    with serving(api) as url:
        address = url if how == "bearer" else url.replace("//", f"//me:{LOGIN}@")
        exit_status, found = certificate(tmp_path, capsys, address, f"--key-env={name}")
    assert exit_status == 1
    assert set(found) == {"output", "errors", "certificate.html", "certificate.json", "certificate.markdown"}
    assert "***" in found["output"]
    assert hits(found) == []


def console(capsys, *words: str) -> dict[str, str]:
    try:
        cli.main([str(word) for word in words])
    except SystemExit:
        pass
    said = capsys.readouterr()
    return {f"{words[0]} output": said.out, f"{words[0]} errors": said.err}


def test_no_secret_is_in_what_the_console_makes_of_results_and_logs(run, planted, tmp_path, capsys):
    """The results and the log that a run left before anything was masked: each command masks what it reads."""
    done = run(*planted.deployment("exits-at-boot", **{"api-key": FLAG}), "-m", "smoke", "--longctx-seed=1")
    redaction.forget()
    rows = done.folder / "results" / "results.jsonl"
    assert "***" in rows.read_text(encoding="utf-8")
    lines = [*CARRIED, *(each for secret in TOLD.values() for each in written(secret))]
    log = planted.pytester.path / "boot.log"
    log.write_text(
        "INFO vllm\nTraceback (most recent call last):\n" + "".join(f"ValueError: {line}\n" for line in lines),
        encoding="utf-8",
    )
    out = tmp_path / "out"
    out.mkdir()
    found: dict[str, str] = {}
    for words in (
        ("diagnose", log, "--engine=vllm", "--exit-code=1"),
        ("diagnose", log, "--engine=vllm", "--exit-code=1", "--json"),
        ("report", rows, "-o", out / "page.html"),
        ("report", rows, "--format=llm-d", "-o", out / "llm-d"),
        ("report", rows, "--format=aiperf", "-o", out / "aiperf"),
        ("merge", rows, "-o", out / "merged.jsonl"),
        ("compare", rows, rows),
        ("history", "add", out / "store", rows),
        ("history", "show", out / "store"),
    ):
        found |= {f"{len(found)} {name}": text for name, text in console(capsys, *words).items()}
    assert hits({**found, **files(out)}) == []


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["lines", "json"])
def test_no_secret_is_in_what_a_watch_prints(more, planted, capsys):
    with listening(Hostile(echo())) as url:
        found = console(capsys, "watch", url.replace("//", f"//me:{LOGIN}@"), "--count=2", "--every=0.1", *more)
        assert found["watch output"]
    with listening(Hostile({"metrics": just(whole(BEARER, 500))})) as url:
        found |= {f"{name} 500": text for name, text in console(capsys, "watch", url, "--once").items()}
    assert hits(found) == []
