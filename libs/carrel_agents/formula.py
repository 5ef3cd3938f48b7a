"""Arithmetic that shows itself: a formula is written once as text, and its value is computed from that very text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

Number = int | float | Decimal


class Formula(NamedTuple):
    """A value and the text it was computed from, "a / b = c"."""

    value: float
    text: str


def show(number: Number, places: int | None = None) -> str:
    """A number as the reports write it: thousands by commas, with `places` decimals, or with those it has."""
    if places is not None:
        return f"{Decimal(str(number)):,.{places}f}"
    exact = Decimal(str(number))
    return f"{exact:,f}" if exact != exact.to_integral() else f"{int(exact):,}"


def solve(expression: str, places: int = 2) -> Formula:
    """Computes an expression of numbers, + - × / and brackets, exactly, and rounds half up to `places` decimals."""
    return _rounded(expression, _evaluate(expression), places)


def solve_money(expression: str) -> Formula:
    """As `solve`, with the decimals of `money_places`."""
    value = _evaluate(expression)
    return _rounded(expression, value, money_places(value))


def money_places(amount: Fraction) -> int:
    """How many decimals an amount is written with: 2 from 100 upwards, else 4, or 8 for what is under a hundredth.

    Shares are computed from amounts as written, so a small amount needs its digits.
    """
    size = abs(amount)
    return 2 if size >= 100 or size == 0 else 4 if size >= Fraction(1, 100) else 8


def money(amount: float) -> str:
    """An amount of money as the reports write it; the decimals are those of `solve_money`."""
    return show(amount, money_places(Fraction(str(amount))))


def said(amount: float) -> str:
    """An amount of money as a sentence says it: by cents from 1 upwards; its formula has more."""
    return show(solve(money(amount)).value, 2) if abs(amount) >= 1 else money(amount)


def join(terms: Iterable[str]) -> str:
    """The sum of terms as text."""
    return " + ".join(terms)


def _rounded(expression: str, value: Fraction, places: int) -> Formula:
    whole = int(abs(value) * 10**places + Fraction(1, 2))
    result = Decimal(whole if value >= 0 else -whole).scaleb(-places)
    return Formula(float(result) if places else int(result), f"{expression} = {result:,.{places}f}")


def _evaluate(expression: str) -> Fraction:
    source = re.sub(r"(?<=\d),(?=\d{3})", "", expression).replace("×", "*")
    return _value(ast.parse(source, mode="eval").body, source)


def _value(node: ast.expr, source: str) -> Fraction:
    match node:
        case ast.Constant():
            return Fraction(ast.get_source_segment(source, node) or "")
        case ast.BinOp(left, operator, right):
            a, b = _value(left, source), _value(right, source)
            match operator:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
    raise ValueError(f"not a formula: {source}")
