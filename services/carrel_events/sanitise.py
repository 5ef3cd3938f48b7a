"""Secrets out of events before they are written: by the name of the key and by the shape of the value. Pure; knows no events.

A text that holds nothing suspicious costs one search of an expression and is returned as it is.
"""

from __future__ import annotations

import json
import re
from typing import Any

REDACTED = "[redacted]"

_STRONG = "passw(?:or)?d|passphrase|secret|api[-_ ]?key|access[-_ ]?key|private[-_ ]?key|credential"
_WEAK = "token|authori[sz]ation|auth|cookie|pwd"

# Names of keys, once lower-cased and without anything between the words. Strong words count wherever they stand. Weak ones only
# at the end: "access_token" is a secret, "prompt_tokens" and "tokenizer" are what our users measure.
_SECRET_KEY = re.compile(rf"{_STRONG.replace('[-_ ]?', '')}|(?:{_WEAK})$").search
_BETWEEN_WORDS = re.compile(r"[^a-z0-9]+").sub

_SHAPES = (
    r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",  # JWT: a header and a payload that begin with {" in base64
    r"(?i:\bbearer)\s+[\w.~+/=-]{8,}",
    # A header with another scheme; only after its name, for "basic" is a word.
    r"(?i:\bauthori[sz]ation[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:basic|digest|token|negotiate|ntlm|api-?key|hmac|dpop)\s{1,4})[^\s,;\"']{4,}",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS
    r"\bAIza[\w-]{35}",  # Google
    r"\b(?:sk|pk|rk)[-_][\w-]{16,}",  # models and payments
    r"\bgh[pousr]_[A-Za-z0-9]{30,}",  # GitHub
    r"\bxox[abeprs]-[\w-]{10,}",  # Slack
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    r"(?<=://)[^\s/:@]+:[^\s/@]+(?=@)",  # user and password in a URL
)
_SECRET_SHAPE = re.compile("|".join(_SHAPES)).sub
# `password=...` and `"password": "..."` in what is text to us. Each repetition is bounded, or starts where no other can: an
# expression that looks at the same text again and again would stop the whole process.
_ASSIGNED = re.compile(
    rf"""(?i)((?:{_STRONG}|{_WEAK})[\w-]{{0,32}})(\\{{0,8}}["']?\s{{0,8}}[:=]\s{{0,8}})(\\{{0,8}}["'][^"'\\]*|[^\s,;&"'{{\[\\]+)"""
).sub
# What every secret above has: without any of it there is nothing to look for. An escape may hide anything in JSON.
_SUSPICIOUS = re.compile(
    rf"(?i)(?:{_STRONG}|{_WEAK})|eyJ|bearer|AKIA|ASIA|AIza|[spr]k[-_]|gh[pousr]_|xox|-----BEGIN|://[^\s/]*@|\\u"
).search
# One of these is in all that `_SUSPICIOUS` finds. To look for words costs a tenth of a search without regard to case, and most
# texts have none of them: 100 KB took 17 ms, in which the process did nothing else.
_HINTS = (
    *"passw passphrase secret credential key token auth cookie pwd eyj bearer akia asia aiza xox -----begin ://".split(),
    *(f"{first}k{sign}" for first in "spr" for sign in "-_"),
    *(f"gh{kind}_" for kind in "pousr"),
    "\\u",
)


def _suspicious(text: str) -> bool:
    folded = text.casefold()
    return any(hint in folded for hint in _HINTS) and _SUSPICIOUS(text) is not None


def clean_text(text: str) -> str:
    """The text with what looks like a secret, or is assigned to the name of one, replaced."""
    return _clean(text) if _suspicious(text) else text


def clean_json(text: str) -> str:
    """The JSON text with the values of secret keys, at any depth, and what looks like a secret replaced. What is not JSON is text."""
    if not _suspicious(text):
        return text
    try:
        cleaned = _clean_value(json.loads(text))
    except ValueError:
        return _clean(text)
    except RecursionError:
        # Deeper than any use of it: what cannot be looked through is not kept.
        return json.dumps(REDACTED)
    # Written anew even if nothing was found: of a key that came twice, only the last was looked at.
    return json.dumps(cleaned, ensure_ascii=False, separators=(",", ":"))


def is_secret_key(key: str) -> bool:
    """Whether a key of this name holds a secret, however it is written: `apiKey`, `API-KEY`, `x_api_key`."""
    return _SECRET_KEY(_BETWEEN_WORDS("", key.lower())) is not None


def _clean(text: str) -> str:
    return _ASSIGNED(_redact_assigned, _SECRET_SHAPE(REDACTED, text))


def _redact_assigned(match: re.Match[str]) -> str:
    name, sign, value = match.groups()
    quote = value[: len(value) - len(value.lstrip("\\\"'"))]
    # A count is no secret, and neither is that there is none; and what is redacted already is not redacted again.
    if not is_secret_key(name) or value[len(quote) :] in ("", "null", "true", "false", REDACTED):
        return match.group()
    return f"{name}{sign}{quote}{REDACTED}"


def _clean_value(value: Any) -> Any:
    match value:
        case dict():
            return {clean_text(key): _clean_entry(key, item) for key, item in value.items()}
        case list():
            return [_clean_value(item) for item in value]
        case str():
            return clean_text(value)
        case _:
            return value


def _clean_entry(key: str, value: Any) -> Any:
    # null and booleans tell whether there is a secret, not which; a structure under such a name goes as a whole.
    if value is None or isinstance(value, bool) or not is_secret_key(key):
        return _clean_value(value)
    return REDACTED
