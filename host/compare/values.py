"""The values of one side of a comparison, from the text that people type: numbers, ranges, intervals, words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from ...guidance.schedule import Interval

Kind = Literal["number", "whole", "interval", "name", "layers"]
OFF = "off"
MOST = 100  # values of one side, and cells of a grid
EXAMPLES = {
    "number": "numbers such as 1, 1.5, 2, or a range such as 1..3 step 0.5",
    "whole": "whole numbers such as 10, 20, 30, or a range such as 10..30 step 10",
    "interval": "intervals such as 0 to 0.5, 0.2 to 0.8 (percent), 5 to 0.15 sigma, or always",
    "layers": "layers as on Degraded Model with | between the choices, such as middle | input 4-5, middle | usual",
}
APART = {"layers": r"[|\n]"}  # what stands between values, where no comma does
RANGE = re.compile(r"(?P<first>.+?)\s*\.\.\s*(?P<last>.*?)(\s+step\s+(?P<step>.+))?$")
INTERVAL = re.compile(r"(?P<start>\S+)\s+to\s+(?P<end>\S+?)(\s+(?P<unit>percent|sigma))?$")


@dataclass(frozen=True)
class Value:
    """One value and the heading under which its cells stand. `setting`: a number, an Interval, a name, or OFF."""

    setting: float | int | str | Interval
    heading: str


def parse(text: str, kind: Kind, *, name: str, side: str, options: Sequence[str] = (), off: bool) -> tuple[Value, ...]:
    """The values in a text, in its order. options: the names there are, for kind = name.

    name: of the parameter; side: of the input that the text comes from; off: whether the parameter can be switched off.

    Raises:
        ValueError: a part that is no value of this kind, or no or too many values, in words.
    """
    allowed = EXAMPLES.get(kind) or _list_words(options)
    found: list[Value] = []
    for part in (part.strip() for part in re.split(APART.get(kind, r"[,;\n]"), text)):
        if not part:
            continue
        try:
            found += [Value(OFF, OFF)] if off and part.lower() == OFF else _READ[kind](part, options)
        except (ValueError, ArithmeticError) as error:
            why = f": {error}" if str(error).endswith(".") else "."
            raise ValueError(f"{side} has {part!r}{why} {name} takes {allowed}{', or off' if off else ''}.") from None
        check_count(len(found), f"{side} gives", "values")
    if not found:
        raise ValueError(f"{side} is empty. {name} takes {allowed}{', or off' if off else ''}.")
    return tuple(found)


def check_count(count: int, subject: str, what: str) -> None:
    """Raise ValueError if there are too many values or cells."""
    if count > MOST:
        raise ValueError(f"{subject} {count} {what}; at most {MOST} fit in one grid. Take fewer values, or two grids.")


def _numbers(text: str, options: Sequence[str] = ()) -> list[Value]:
    between = RANGE.match(text)
    numbers = _range(between) if between else [_decimal(text)]
    return [Value(float(number), _plain(number)) for number in numbers]


def _whole(text: str, options: Sequence[str] = ()) -> list[Value]:
    between = RANGE.match(text)
    numbers = _range(between) if between else [_decimal(text)]
    if any(number != number.to_integral_value() for number in numbers):
        raise ValueError
    return [Value(int(number), _plain(number)) for number in numbers]


def _range(found: re.Match) -> list[Decimal]:
    """Decimal, so that 1..2 step 0.1 gives the very numbers that one would type."""
    first, last = _decimal(found["first"]), _decimal(found["last"])
    step = abs(_decimal(found["step"] or "1"))
    if step == 0:
        raise ValueError("a range needs a step other than 0.")
    check_count(int(abs(last - first) / step) + 1, f"{found[0]} is", "values")
    direction = 1 if last >= first else -1
    return [first + direction * step * i for i in range(int(abs(last - first) / step) + 1)]


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError
    return number + 0  # no -0


def _plain(number: Decimal) -> str:
    """Without an exponent and without zeros at the end."""
    text = f"{number:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def _intervals(text: str, options: Sequence[str] = ()) -> list[Value]:
    if text.lower() == "always":
        return [Value(Interval(), "always")]
    found = INTERVAL.match(text)
    if not found:
        raise ValueError
    start, end = _decimal(found["start"]), _decimal(found["end"])
    unit = "sigma" if found["unit"] == "sigma" else "percent"
    heading = f"{_plain(start)} to {_plain(end)}" + (" sigma" if unit == "sigma" else "")
    return [Value(Interval(float(start), float(end), unit), heading)]


def _names(text: str, options: Sequence[str]) -> list[Value]:
    if text not in options:
        raise ValueError
    return [Value(text, text)]


def _layers(text: str, options: Sequence[str]) -> list[Value]:
    return [Value("" if text.lower() == "usual" else text, text)]


def _list_words(options: Sequence[str]) -> str:
    return f"any of {', '.join(options)}"


_READ = {"number": _numbers, "whole": _whole, "interval": _intervals, "name": _names, "layers": _layers}
