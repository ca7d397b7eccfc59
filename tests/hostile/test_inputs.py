"""Files and commands of users, given to ``longctx plan`` and ``longctx diagnose``: an answer or one message, no wait, nothing raw."""

import gzip
import json
import os
import re
from itertools import cycle

import pytest

from pytest_longctx import cli
from tests.hostile.test_reports import ATTACKS
from tests.hostile.test_secrets import FORMS, SECRETS, core

POD = {"image": "vllm/vllm-openai:v0.12.0", "args": ["--model", "m"]}
LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)
"""A billion values, written as aliases of YAML."""
MANIFESTS = {
    "billion-laughs.yaml": LAUGHS,
    "contains-itself.yaml": "a: &a\n  b: *a\n",
    "list-of-itself.yaml": "a: &a [*a]\n",
    "deep.yaml": "[" * 20_000 + "]" * 20_000,
    "deep.json": '{"a":' * 900 + "1" + "}" * 900,
    "wide-number.json": json.dumps({"spec": {"containers": [{**POD, "resources": {"limits": {"memory": 10**400}}}]}}),
    "surrogate.json": json.dumps({"services": {"\ud800": {"image": POD["image"], "command": "--model \ud800x"}}}),
    "infinite.yaml": f"services: {{a: {{image: '{POD['image']}', command: --model m, mem_limit: .inf}}}}",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", MANIFESTS)
@pytest.mark.parametrize("more", [[], ["--json"]], ids=["lines", "json"])
def test_a_hostile_manifest_is_one_message(name, more, tmp_path, capsys):
    path = tmp_path / name
    path.write_text(MANIFESTS[name], encoding="utf-8")
    assert cli.main(["plan", "--hardware=8xH100", *more, str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"longctx: {path}: ")
    assert "was not understood" not in said


@pytest.mark.parametrize("count", ["9" * 5000, "٣", "-1", "1e9", "", "9" * 400])
def test_a_count_that_is_none_is_not_given(count, tmp_path, capsys):
    path = tmp_path / "pod.json"
    limited = {**POD, "resources": {"limits": {"nvidia.com/gpu": count, "memory": f"{count}Gi"}}}
    reserved = {"reservations": {"devices": [{"count": count}]}}
    compose = {**POD, "command": POD["args"], "shm_size": f"{count}g", "deploy": {"resources": reserved}}
    for document in ({"spec": {"containers": [limited]}}, {"services": {"a": compose}}):
        path.write_text(json.dumps(document), encoding="utf-8")
        assert cli.main(["plan", "--hardware=8xH100", str(path)]) == 0, capsys.readouterr().err
    typed = ["docker", "run", "--gpus", count, "--shm-size", f"{count}g", POD["image"], "--model", "m"]
    assert cli.main(["plan", "--hardware=8xH100", "--", *typed]) == 0, capsys.readouterr().err


@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "/dev/full", "/dev/urandom"])
@pytest.mark.parametrize(
    "typed",
    [
        ["plan", "--hardware=8xH100", "--", "vllm", "serve", "m", "--config", "{}"],
        ["plan", "--hardware=8xH100", "--model={}", "--", "vllm", "serve", "m"],
        ["diagnose", "{}"],
        ["diagnose", "--good={}", os.devnull],
    ],
    ids=["config", "model", "log", "good"],
)
def test_an_input_that_may_have_no_end_is_refused_at_once(typed, place, tmp_path, capsys):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    where = str(path) if place == "pipe" else place
    assert cli.main([word.replace("{}", where) for word in typed]) == 2
    said = capsys.readouterr().err
    assert said.startswith("longctx: ")
    assert "was not understood" not in said


HOSTILE = [attack for attack in ATTACKS if "\r" not in attack]


def failed(error):
    """The log of an engine that ended with *error*."""
    return f'INFO vllm\nTraceback (most recent call last):\n  File "x.py", line 1, in f\n    f()\n{error}\n'


def is_plain(text):
    lines = re.split(r"[\n\r\x0b\x0c\x85\u2028\u2029]", text)
    commands = [line for line in lines if line.lstrip().startswith("::")] or re.findall(r"##\w*\[", text)
    return not commands and not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028]", text)


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["lines", "json"])
def test_no_line_of_a_log_is_a_command_or_reaches_the_terminal_raw(more, tmp_path, capsys):
    path = tmp_path / "boot.log"
    for attack in HOSTILE:
        path.write_text(failed(f"{attack}\nValueError: {attack}\n{attack}"), encoding="utf-8")
        cli.main(["diagnose", "--engine=vllm", "--exit-code=1", *more, str(path)])
        said = capsys.readouterr().out
        assert "injected" in said or "reversed" in said
        assert is_plain(said)
        json.loads(said) if more else None


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["lines", "json"])
def test_no_word_of_a_command_that_is_planned_reaches_the_terminal_raw(more, capsys):
    for attack in HOSTILE:
        assert cli.main(["plan", "--hardware=8xH100", *more, "--", "vllm", "serve", attack, "--nope", attack]) == 0
        said = capsys.readouterr().out
        assert is_plain(said)
        json.loads(said) if more else None


@pytest.mark.parametrize(("form", "secret"), [*zip(FORMS, cycle(SECRETS), strict=False)], ids=FORMS)
def test_no_form_of_a_secret_of_the_environment_is_in_a_diagnosis(form, secret, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PLANTED_API_KEY", secret)
    path = tmp_path / "boot.log"
    path.write_text(failed(f"ValueError: engine says {FORMS[form](secret)}"), encoding="utf-8")
    for more in ([], ["--json"]):
        cli.main(["diagnose", "--engine=vllm", "--exit-code=1", *more, str(path)])
        said = capsys.readouterr().out
        assert "engine says" in said
        assert core(secret, form) not in said
        assert core(secret, form) not in str(json.loads(said) if more else "")


NAMED = (
    "non-default args: {{'model': 'm', 'api_key': ['{0}', '{0}'], 'max_model_len': 4096}}",
    "Namespace(api_key='{0}', hf_token='{0}', max_num_batched_tokens=8192)",
    'body={{"headers": {{"authorization": "Bearer {0}"}}, "max_tokens": 8}}',
    'said "{{\\"api_key\\": \\"{0}\\"}}" in JSON',
    "Authorization: Basic {0}",
    "python -m vllm --api-key {0} --max-model-len 4096",
    "env HF_TOKEN={0} AWS_SECRET_ACCESS_KEY={0} vllm serve",
    "invalid token {0} for this model",
    "redis://default:{0}@cache:6379/0",
    "GET /v1/models?api_key={0}&limit=10000000",
)


@pytest.mark.parametrize("line", NAMED)
@pytest.mark.parametrize("packed", [False, True], ids=["text", "gzip"])
def test_a_secret_that_only_the_log_knows_is_masked_by_its_name_or_form(line, packed, tmp_path, capsys):
    secret = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
    text = failed(f"ValueError: {line.format(secret)}").encode()
    path = tmp_path / "boot.log"
    path.write_bytes(gzip.compress(text) if packed else text)
    cli.main(["diagnose", "--engine=vllm", "--exit-code=1", "--json", str(path)])
    said = capsys.readouterr().out
    assert "ValueError" in said
    assert secret[4:] not in said
    for kept in re.findall(r"max_\w+.{4,10}|--max-model-len 4096|limit=\d+", line):
        assert kept.strip("}") in str(json.loads(said))


@pytest.mark.parametrize(
    "plain",
    [
        "max_num_batched_tokens=8192, num_tokens: 12345678",
        "--tokenizer meta-llama/Llama-4 --max-num-batched-tokens 131072",
        "the bearer authentication of this server is off",
        "export HF_TOKEN=$HF_TOKEN VLLM_API_KEY=${VLLM_API_KEY}",
        "api_key=None, password: <your password>, api_key='EMPTY'",
        "----Inter-token Latency----",
        'secret "vllm-credentials" not found',
    ],
)
def test_text_without_a_secret_is_not_masked(plain):
    from pytest_longctx.redaction import masked

    assert masked(plain) == plain
