"""Pages: sizes, and tokens that only their own list takes."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from carrel_chassis.errors import CarrelError
from carrel_chassis.pages import EARLIEST, LATEST, Page, list_name, page_size, read_token, write_token

NOON = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)


def test_no_size_is_the_default_and_too_much_is_refused() -> None:
    assert (page_size(0), page_size(7), page_size(200)) == (50, 7, 200)
    with pytest.raises(CarrelError, match=r"page_size is 201; it may be 1 to 200\."):
        page_size(201)


def test_a_page_goes_on_after_the_thing_that_its_token_names_to_the_microsecond() -> None:
    first = Page.newest_first("threads", 2, "")
    assert (first.size, first.create_time, first.id) == (2, LATEST, "")
    assert Page.oldest_first("waits", 0, "").create_time == EARLIEST
    second = Page.newest_first("threads", 2, first.token_after(NOON, "thread-7"))
    assert (second.create_time, second.id) == (NOON, "thread-7")


def test_lists_are_told_apart_by_what_they_list_and_by_their_filters() -> None:
    names = {list_name("runs"), list_name("runs", "thread-1"), list_name("runs", "", "thread-1"), list_name("waits")}
    assert len(names) == 4
    assert list_name("runs", "a", "b") == list_name("runs", "a", "b")


@pytest.mark.parametrize(
    "token",
    [
        "no token",
        "é",
        "====",
        write_token("waits", "1", "x"),
        write_token("runs", "1"),
        write_token("runs", "1", "x", "y"),
        write_token("runs", "soon", "x"),
        write_token("runs", "9" * 40, "x"),
        write_token("runs", "1", "nul\0"),
        base64.urlsafe_b64encode(b"runs\n1\n\xff").decode(),
    ],
)
def test_what_the_list_did_not_give_out_is_refused(token: str) -> None:
    with pytest.raises(CarrelError) as raised:
        Page.newest_first("runs", 1, token)
    assert raised.value.reason == "CURSOR_INVALID"


def test_a_token_of_parts_comes_back_as_it_was() -> None:
    assert read_token(write_token("users", "ada", "x y"), "users", 2) == ["ada", "x y"]
