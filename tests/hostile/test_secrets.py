"""Secrets in every form, and in every file that a run leaves."""

import base64
import html
import json
import shlex
from collections.abc import Callable, Mapping
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_longctx import redaction
from pytest_longctx.errors import UsageError
from pytest_longctx.launchers.url import UrlLauncher
from tests.conftest import FAULTY
from tests.hostile import EXAMPLES

SECRETS = (
    "sk-plain-0123456789",
    "with'quote-abcdefg",
    'with"double-abcdefg',
    "with\\backslash-abc",
    "with space and tail",
    "with/slash+plus==",
    "p@ss@w0rd-with-at",
    "percent%25%zz-abcd",
    "umlaut-äöü-secret",
    "angle<&>bracket-xy",
    "dollar$HOME`x`-abc",
    "emoji-🔑-secret-key",
)
FORMS: Mapping[str, Callable[[str], str]] = {
    "raw": lambda secret: secret,
    "shell": shlex.quote,
    "repr": repr,
    "ascii": ascii,
    "bytes": lambda secret: repr(secret.encode()),
    "json": json.dumps,
    "json-utf8": lambda secret: json.dumps(secret, ensure_ascii=False),
    "json-in-json": lambda secret: json.dumps(json.dumps({"key": secret})),
    "percent": lambda secret: quote(secret, safe=""),
    "percent-lower": lambda secret: "".join(
        chr(byte) if byte < 128 and (chr(byte).isalnum() or chr(byte) in "-_.~") else f"%{byte:02x}"
        for byte in secret.encode()
    ),
    "form": quote_plus,
    "html": html.escape,
    "hex": lambda secret: secret.encode().hex(),
    "upper-hex": lambda secret: secret.encode().hex().upper(),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "basic": lambda secret: base64.b64encode(b"user:" + secret.encode()).decode(),
    "urlsafe": lambda secret: base64.urlsafe_b64encode(b"a:" + secret.encode() + b"\n").decode(),
    "url": lambda secret: f"http://user:{quote(secret, safe='')}@host:8000/v1",
    "query": lambda secret: f"http://host/v1?api_key={quote(secret, safe='')}&x=1",
}
IDS = [f"secret{index}" for index in range(len(SECRETS))]


def core(secret, form):
    """The part of the form that must not remain: the secret as that form writes it, or eight letters of its Base64."""
    if form in ("base64", "basic", "urlsafe"):
        written = FORMS[form](secret).rstrip("=")
        middle = len(written) // 2
        return written[middle - 4 : middle + 4]
    return FORMS[form](secret).strip("'\"") if form not in ("url", "query", "json-in-json") else secret


@pytest.mark.parametrize("secret", SECRETS, ids=IDS)
@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_secret_remains(form, secret):
    redaction.remember([secret])
    said = redaction.masked(f"before {FORMS[form](secret)} after")
    assert core(secret, form) not in said
    assert secret not in said
    assert said.startswith("before ")
    assert said.endswith(" after")


CUTS: Mapping[str, Callable[[str, str], str]] = {
    "indent": lambda first, rest: f"said {first}\n      {rest} after",
    "box": lambda first, rest: f"\u2502 said {first}   \u2502\n\u2502 {rest}   \u2502",
    "bars": lambda first, rest: f"| said {first} |\n| {rest} |",
    "quotes": lambda first, rest: f"said {first!r}, and {rest!r}",
    "dots": lambda first, rest: f"said {first}... and ...{rest}",
    "ellipsis": lambda first, rest: f"said {first}\u2026 and \u2026{rest}",
    "escaped": lambda first, rest: json.dumps(f"said {first}\n{rest} after"),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("form", ["raw", "percent", "base64", "hex", "upper-hex"])
def test_no_piece_of_a_secret_remains_where_a_line_is_broken_or_a_text_is_cut(form, cut):
    for secret in SECRETS:
        whole = FORMS[form](secret)
        for at in range(6, len(whole) - 5):
            said = redaction.masked(CUTS[cut](whole[:at], whole[at:]), [secret])
            pieces = [whole[start : start + 8] for start in range(len(whole) - 7)]
            if form == "base64":  # its last letters depend on what follows
                pieces = pieces[:-2]
            assert [piece for piece in pieces if piece in said] == [], (secret, at, said)


@pytest.mark.parametrize(
    ("secrets", "plain"),
    [
        (["/home/user/keys/id_rsa"], "rootdir: /home/user"),
        (["~/.kube/config"], "it is in '~/.kube'"),
        (["http://127.0.0.1:8000/secret"], "url 'http://127.0.0.1'"),
        (["----------0123456789"], "--------\n'--------'"),
        (["0123456789abcdef"], "012345678 tokens at 2026-01-01T00:00:00 of model abcdef0"),
    ],
)
def test_text_that_only_resembles_a_secret_stays(secrets, plain):
    assert redaction.masked(plain, secrets) == plain


@pytest.mark.parametrize(
    "token",
    [
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJydW4tN2M0ZiJ9.c2lnbmF0dXJlLTRkMmE",
        "nvapi-0123456789abcdefghijABCD",
        "ghp_0123456789abcdefghijABCDEFGHIJ012345",
        "hf_0123456789abcdefghijABCDEFGHIJ0123",
    ],
)
@pytest.mark.parametrize("line", ["token: {}", "'{}'", '{{"identitytoken": "{}"}}', "401 for {} at"])
def test_a_token_is_known_by_its_form(token, line):
    said = redaction.masked(line.format(token))
    assert token not in said
    assert said == line.format("***")


@pytest.mark.parametrize(
    "line", ['{{"auth": "{}"}}', '"auths": {{"host": {{"auth":"{}"}}}}', '"{{\\"auth\\": \\"{}\\"}}"']
)
def test_a_login_of_docker_is_known_by_its_name(line):
    assert redaction.masked(line.format("dXNlcjpwYXNzd29yZA==")) == line.format("***")


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("http://me:p@ss-0123@proxy:3128", {"p@ss-0123"}),
        ("redis://:p%40ss-0123@cache:6379/0", {"p@ss-0123", "p%40ss-0123"}),
        ("https://token-0123@host/x", {"token-0123"}),
        ("http://proxy:3128", set()),
        ("me@host", set()),
    ],
)
def test_a_login_in_an_address_of_the_environment_is_a_secret(address, found):
    assert set(redaction.secret_values({"HTTPS_PROXY": address})) == found


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=12, max_size=60),
    st.sampled_from(list(FORMS)),
)
@example("aaaaaaaaaaaa", "base64")
def test_no_form_of_any_secret_remains(secret, form):
    assert core(secret, form) not in redaction.masked(f"<< {FORMS[form](secret)} >>", [secret])


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.text(), st.lists(st.text(min_size=1, max_size=20), max_size=3))
@example("http://h/?key=\rx0123456789", [])
@example("api_key=\x85y0123456789", [])
def test_text_that_is_shown_is_plain_and_stays_as_it_is(text, secrets):
    once = redaction.shown(text, secrets)
    assert "\x1b" not in once
    assert "\r" not in once
    assert not any(line.lstrip().startswith("::") for line in once.split("\n"))
    assert "##[" not in once
    once.encode()  # no lone surrogate
    assert redaction.shown(once) == once


@pytest.mark.parametrize("wrong", ["sk-0123456789\n", "sk 0123456789", "sk-\x00-0123", "sk-ä-0123456789", "\tsk-0123"])
def test_a_key_that_no_header_can_have_is_refused_at_the_start_and_not_shown(wrong):
    with pytest.raises(UsageError, match=r"LONGCTX_API_KEY: the key") as raised:
        redaction.checked_key(wrong, "LONGCTX_API_KEY")
    assert wrong.strip() not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:p@ss/w0rd-0123@host:x",
        "http://host:8000/v1?api_key=sk-0123456789",
        "http://host:8000/#sk-0123456789",
        "ftp://user:sk-0123456789@host",
    ],
)
def test_an_address_with_a_key_in_the_wrong_place_is_refused_and_not_shown(url):
    with pytest.raises(UsageError, match="write url:http://HOST:PORT") as raised:
        UrlLauncher(url)
    assert not any(word in str(raised.value) for word in ("w0rd-0123", "sk-0123456789"))


LEAKS = """
import sys
forms = {forms!r}
print("\\n".join("ValueError: engine says " + form for form in forms), flush=True)
"""


def test_no_secret_is_in_any_file_or_line_of_a_run(run, pytester, monkeypatch):
    """An engine that prints each secret in each form, and ends: the terminal, JUnit XML, results, HTML and boot logs are searched."""
    variables = {f"PLANTED_{index}_TOKEN": secret for index, secret in enumerate(SECRETS)}
    forms = [make(secret) for secret in SECRETS for make in FORMS.values()]
    leaking = pytester.mkdir("leaking")
    (leaking / "sitecustomize.py").write_text(LEAKS.format(forms=forms), encoding="utf-8")
    (pytester.path / "faulty.toml").write_text(
        FAULTY.format(fault="exits-at-boot", boot_s=30, answer_s=30, stall_s=30)
        + f"[env]\nPYTHONPATH = {json.dumps(str(leaking))}\nPYTHONIOENCODING = 'utf-8'\n"
        + "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in variables.items()),
        encoding="utf-8",
    )
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    done = run(
        "--backend=miniature",
        "--longctx-deployment=faulty.toml",
        "--longctx-github",
        "--longctx-report=report.html",
        "--junitxml=report.xml",
        "-m",
        "smoke",
    )
    logs = list((done.folder / "results" / "boots").glob("*.log"))
    assert logs
    assert "engine says" in logs[0].read_text(encoding="utf-8")
    files = [
        path
        for path in done.folder.rglob("*")
        if path.is_file() and path.name not in ("faulty.toml", "sitecustomize.py")
    ]
    assert {"report.xml", "report.html", "results.jsonl", "summary.md"} <= {path.name for path in files}
    texts = {"the terminal": done.text} | {
        str(path.relative_to(done.folder)): path.read_text(encoding="utf-8", errors="replace")
        for path in files
        if path.suffix != ".pyc"
    }
    hits = [
        (place, index, form)
        for place, text in texts.items()
        for index, secret in enumerate(SECRETS)
        for form in FORMS
        if core(secret, form) in text
    ]
    assert hits == []
