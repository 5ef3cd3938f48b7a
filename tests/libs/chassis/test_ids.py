"""What may stand as an id."""

import pytest

from carrel_chassis.errors import CarrelError
from carrel_chassis.ids import PLACEHOLDERS, check_id, is_id, new_id


@pytest.mark.parametrize("word", sorted(PLACEHOLDERS))
@pytest.mark.parametrize("dress", ["{}", " {} ", "<{}>", "--{}--", "__{}__", "{{{}}}", "[{}]", "{}\n", "'{}'", "\t{}"])
def test_a_placeholder_is_refused_however_it_is_dressed(word: str, dress: str) -> None:
    for form in (word, word.upper(), word.title()):
        with pytest.raises(CarrelError) as refusal:
            check_id(dress.format(form), "user_id")
        assert refusal.value.reason == "INVALID_ID"
        assert refusal.value.fields.keys() == {"user_id"}


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "a" * 129,
        "a" * 1_000_000,
        "a b",
        "a\nb",
        "a\x00b",
        "<b>ada</b>",
        "ада",
        "a/b",
        "ö",
        "-a",
        ".",
        "a\u200b",
    ],
)
def test_what_is_outside_the_alphabet_or_the_length_is_refused(value: str) -> None:
    assert not is_id(value)
    with pytest.raises(CarrelError) as refusal:
        check_id(value, "run_id")
    assert refusal.value.message.startswith("run_id ")
    assert len(refusal.value.message) < 200


@pytest.mark.parametrize(
    "value", ["a", "ada", "ada@example.org", "tenant-7", "a" * 128, "run-00ff", "A.b_c:d+e~f", "none-such"]
)
def test_a_real_id_is_returned_as_it_is(value: str) -> None:
    assert check_id(value, "user_id") == value


def test_new_ids_are_ids_and_differ() -> None:
    ids = {new_id("run") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(map(is_id, ids))
