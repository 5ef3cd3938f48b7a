"""Whether the numbers in a text are among those of a report: a model can write well and still make up a number."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from carrel.agent import JSON

_WORD = re.compile(r"[\w][\w.,:+/%-]*", re.UNICODE)
_NUMBER = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_SCALES = {"thousand": 3, "k": 3, "million": 6, "m": 6, "billion": 9, "bn": 9}
_ROUNDED_DIGITS = 3
"""A number may be rounded, but to no fewer digits: two digits fit almost anything."""


class Known(NamedTuple):
    """What a report says in digits."""

    numbers: frozenset[Decimal]
    words: frozenset[str]
    """Words with digits that are no numbers: times, names of models, "p95"."""


def check(text: str, report: Mapping[str, JSON]) -> tuple[str, list[str]]:
    """The text without the sentences that state a number which the report does not have, and those sentences.

    A number in digits passes if it equals one of the report's, or one of them rounded to three digits or more; "million" and its like
    are understood. Numbers in words ("half", "twelve") are not looked at, nor whether a number is said of the right thing.
    """
    known = known_numbers(report)
    kept, removed = [], []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        sentences = [sentence for sentence in re.split(r"(?<=[.!?])\s+|\n", paragraph) if sentence.strip()]
        good = [sentence.strip() for sentence in sentences if not unknown_numbers(sentence, known)]
        removed += [sentence.strip() for sentence in sentences if unknown_numbers(sentence, known)]
        if good:
            kept.append(" ".join(good))
    return "\n\n".join(kept), removed


def known_numbers(report: Mapping[str, JSON]) -> Known:
    """Every number of a report, in its values, in its formulas and in its sentences."""
    numbers: set[Decimal] = set()
    words: set[str] = set()
    for leaf in _leaves(report):
        if isinstance(leaf, str):
            for word in _words(leaf):
                number = _number(word)
                if number is None:
                    words.add(word.casefold())
                else:
                    numbers.add(abs(number))
        elif not isinstance(leaf, bool) and leaf is not None:
            numbers.add(abs(Decimal(str(leaf))))
    return Known(frozenset(numbers), frozenset(words))


def unknown_numbers(sentence: str, known: Known) -> list[str]:
    """The words with digits in a sentence that are neither a number of the report nor a word of it."""
    words = list(_words(sentence, digits_only=False))
    return [
        word
        for word, following in zip(words, [*words[1:], ""], strict=True)
        if _has_digit(word) and not _is_known(word, following, known)
    ]


def _is_known(word: str, following: str, known: Known) -> bool:
    if word.casefold() in known.words:
        return True
    scaled = re.fullmatch(r"(.*\d)(k|m|bn)", word, re.IGNORECASE)
    number = _number(scaled[1] if scaled else word)
    if number is None:
        return False
    scale = _SCALES.get((scaled[2] if scaled else following).casefold(), 0)
    return any(_fits(abs(number), scale, each) for each in known.numbers)


def _fits(written: Decimal, scale: int, number: Decimal) -> bool:
    exact = number.scaleb(-scale)
    if written == exact:
        return True
    digits = len(written.as_tuple().digits)
    places = written.as_tuple().exponent
    if digits < _ROUNDED_DIGITS or not isinstance(places, int) or places > 0:
        return False
    return abs(written - exact) <= Decimal(1).scaleb(places) / 2


def _words(text: str, *, digits_only: bool = True) -> Iterator[str]:
    for match in _WORD.finditer(text):
        word = match[0].rstrip(".,:+/%-")
        if word and (not digits_only or _has_digit(word)):
            yield word


def _number(word: str) -> Decimal | None:
    if not _NUMBER.fullmatch(word):
        return None
    try:
        return Decimal(word.replace(",", ""))
    except InvalidOperation:
        return None


def _has_digit(word: str) -> bool:
    return any(character.isnumeric() for character in word)


def _leaves(value: JSON) -> Iterator[JSON]:
    match value:
        case Mapping():
            for each in value.values():
                yield from _leaves(each)
        case list() | tuple():
            for each in value:
                yield from _leaves(each)
        case _:
            yield value
