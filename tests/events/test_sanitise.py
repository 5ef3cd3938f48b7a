"""What is a secret, and what only looks like one."""

from __future__ import annotations

import json
import time

import pytest

from carrel_events.sanitise import REDACTED, clean_json, clean_text, is_secret_key

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"

SECRET_KEYS = """
    password PASSWORD db_password Passwd pwd passphrase auth authorization Authorization cookie Set-Cookie credentials
    api_key apiKey API-KEY x-api-key X_Api_Key token access_token accessToken refresh-token private_key privateKey
    client_secret clientSecret secret_access_key aws-secret-access-key
""".split()
HARMLESS_KEYS = """prompt_tokens total_tokens max_tokens tokenizer author authored_by key keyboard name passenger compass model
    input_tokens_per_second cookies_eaten""".split()


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_a_secret_goes_by_the_name_of_its_key(key: str) -> None:
    assert is_secret_key(key)
    for value in ("hunter2", 1234, ["a", "b"], {"inner": "x"}):
        data = {"keep": 1, "nested": [{"deep": {key: value}}]}
        assert json.loads(clean_json(json.dumps(data))) == {"keep": 1, "nested": [{"deep": {key: REDACTED}}]}


@pytest.mark.parametrize("key", HARMLESS_KEYS)
def test_a_harmless_key_keeps_its_value(key: str) -> None:
    data = {key: "cl100k", "n": [{key: 12}]}
    assert json.loads(clean_json(json.dumps(data))) == data


SHAPES = {
    "JWT": f"it is {JWT} here",
    "bearer": "header Bearer abcdefgh.12345678",
    "bearer of any case": "bearer ABCDEFGH12345678",
    "AWS": "key AKIAIOSFODNN7EXAMPLE!",
    "model key": "use sk-proj-abcdefghijklmnopqrstuv",
    "GitHub": "ghp_" + "a1B2" * 9,
    "Slack": "xoxb-123456789012-abcdef",
    "user of a URL": "postgresql://bob:hunter2hunter2@host/db",
    "PEM": "-----BEGIN RSA PRIVATE KEY-----\nMIIEabcdefgh\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
def test_a_secret_goes_by_the_shape_of_its_value(text: str) -> None:
    longest = max((word for word in text.replace("\n", " ").split()), key=len)
    for cleaned in (clean_text(text), json.loads(clean_json(json.dumps({"note": [text]})))["note"][0]):
        assert REDACTED in cleaned
        assert longest not in cleaned


ASSIGNED = {
    "password=hunter2": "password=[redacted]",
    "failed: api_key = abc123, again": "failed: api_key = [redacted], again",
    '{"password": "hunter2", broken': '{"password": "[redacted]", broken',
    r"{\"token\": \"hunter2\"}": r"{\"token\": \"[redacted]\"}",
}


@pytest.mark.parametrize(("text", "cleaned"), ASSIGNED.items())
def test_a_secret_goes_where_text_assigns_it(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@pytest.mark.parametrize(
    "text", ["12 tokens were used", "the author said: hello", "a password is needed", "secrets of the sea", "SELECT 1"]
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert clean_text(text) == text


def test_harmless_json_keeps_every_byte() -> None:
    text = '{ "a" : 1.10, "b":[ null,true ] }'
    assert clean_json(text) is text


def test_whether_there_is_a_secret_stays_visible() -> None:
    assert clean_json('{"token":null,"secret":true}') == '{"token":null,"secret":true}'


def test_an_escape_hides_no_key() -> None:
    assert "hunter2" not in clean_json('{"passw\\u006frd": "hunter2"}')


def test_a_key_that_comes_twice_hides_nothing() -> None:
    assert "hunter2" not in clean_json('{"password": "hunter2", "password": "[redacted]"}')


def test_json_that_is_too_deep_to_look_through_is_not_kept() -> None:
    deep = '{"password":' * 100_000 + "1" + "}" * 100_000
    assert clean_json(deep) == '"[redacted]"'


def cpu_seconds(text: str) -> float:
    """What cleaning costs, whatever else the machine does: the least of three."""

    def once() -> float:
        begin = time.process_time()
        clean_text(text)
        return time.process_time() - begin

    return min(once() for _ in range(3))


@pytest.mark.parametrize("part", ["token", "a_", "eyJ", "://", "-", "-token"])
def test_no_text_costs_more_than_in_proportion_to_its_length(part: str) -> None:
    short, long = (f"{part * (size // len(part))}auth" for size in (10_000, 160_000))
    # Sixteen times as long: an expression that looks at the same text again and again would take up to 256 times as much.
    assert cpu_seconds(long) < 50 * max(cpu_seconds(short), 1e-5)
