import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.redaction import HIDDEN, masked, secret_values

SECRETS = st.text("abcXYZ019 -=\n", min_size=4, max_size=12)


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "OPENAI_API_KEY", "VLLM_API_KEY", "AWS_SECRET", "PGPASSWORD", "db_passwd", "MY_CREDENTIALS", "TOKENS"],
)
def test_a_variable_with_a_secrets_name_is_a_secret(name):
    assert secret_values({name: "hunter2"}) == ("hunter2",)


@pytest.mark.parametrize("name", ["PATH", "TOKENIZERS_PARALLELISM", "KEYBOARD", "HF_HOME", "SECRETARY"])
def test_any_other_variable_is_none(name):
    assert secret_values({name: "hunter2"}) == ()


@pytest.mark.parametrize(
    "flag", ["--api-key", "--hf-token", "--admin-api-key", "--ssl-key-password", "--client-secret"]
)
def test_a_flag_with_a_secrets_name_hides_its_value_in_both_spellings(flag):
    assert secret_values({}, ["serve", flag, "hunter2", "--port", "8000"]) == ("hunter2",)
    assert secret_values({}, ["serve", f"{flag}=hunter2=x", "other"]) == ("hunter2=x",)


@pytest.mark.parametrize("flag", ["--tokenizer", "--max-num-batched-tokens", "--key", "-k", "api-key"])
def test_any_other_flag_hides_nothing(flag):
    assert secret_values({}, [flag, "hunter2", f"{flag}=hunter2"]) == ()


def test_an_engine_may_take_underscores_for_dashes():
    assert secret_values({}, ["--api_key", "hunter2"]) == ("hunter2",)


def test_a_value_of_a_few_letters_is_no_secret():
    assert secret_values({"A_KEY": "abc", "B_KEY": "abcd", "C_KEY": ""}) == ("abcd",)


@given(st.dictionaries(st.sampled_from([f"{letter}_KEY" for letter in "ABCDE"]), SECRETS))
def test_every_secret_is_found_once_and_the_longest_first(env):
    found = secret_values(env)
    assert set(found) == set(env.values())
    assert len(set(found)) == len(found)
    assert [len(each) for each in found] == sorted(map(len, found), reverse=True)


@given(st.lists(SECRETS, min_size=1, max_size=5), st.data())
def test_no_secret_is_left_in_any_text(secrets, data):
    """Including secrets that contain or overlap one another."""
    env = {f"{i}_TOKEN": secret for i, secret in enumerate(secrets)}
    pieces = st.sampled_from(secrets) | st.text("abcXYZ019 -=\n", max_size=3)
    text = "".join(data.draw(st.lists(pieces)))
    shown = masked(text, secret_values(env))
    assert not [secret for secret in secrets if secret in shown]


@given(st.text())
def test_a_text_without_secrets_stays_as_it_is(text):
    assert masked(text, ["\0" * 9]) == text.replace("\0" * 9, HIDDEN)
    assert masked(text, []) == text


def test_what_surrounds_a_secret_stays():
    assert masked("Bearer hunter2, hunter2!", ["hunter2"]) == f"Bearer {HIDDEN}, {HIDDEN}!"


def test_the_credentials_of_a_url_are_no_part_of_it():
    assert masked("url:http://bob:hunter2@host:8000/v1 and postgres://u:p@h/d", ()) == (
        "url:http://***@host:8000/v1 and postgres://***@h/d"
    )
    assert masked("mail bob@example.invalid at http://host/a@b", ()) == "mail bob@example.invalid at http://host/a@b"
