"""What people type for a side of a grid: numbers, ranges, intervals, names, and mistakes in one sentence."""

import pytest


@pytest.fixture(scope="module")
def values(comfy):
    from guidance_pack.host.compare import values as compare_values

    return compare_values


def parsed(values, text, kind="number", options=(), off=True):
    return values.parse(text, kind, name="cfg weight", side="x_values", options=options, off=off)


def settings(found):
    return [value.setting for value in found]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1, 1.5, 2", [1.0, 1.5, 2.0]),
        (" 3 ;\n4 ,, ", [3.0, 4.0]),
        ("1..3 step 0.5", [1.0, 1.5, 2.0, 2.5, 3.0]),
        ("1..3", [1.0, 2.0, 3.0]),
        ("3 .. 1 step 1", [3.0, 2.0, 1.0]),
        ("1..2 step 0.3", [1.0, 1.3, 1.6, 1.9]),
        ("-1..1", [-1.0, 0.0, 1.0]),
        (".5..1.5 step .5", [0.5, 1.0, 1.5]),
        ("off, 1..2, 7", ["off", 1.0, 2.0, 7.0]),
        ("OFF", ["off"]),
        ("2, 2", [2.0, 2.0]),
    ],
)
def test_numbers_and_ranges(values, text, wanted):
    assert settings(parsed(values, text)) == wanted


def test_ranges_give_the_numbers_that_one_would_type(values):
    """0.1 + 0.2 is not 0.3 in binary: a cell of 0..1 step 0.1 must be the cell of 0.3."""
    found = parsed(values, "0..1 step 0.1")
    assert settings(found) == [float(f"0.{i}") for i in range(10)] + [1.0]
    assert [value.heading for value in found] == ["0", *(f"0.{i}" for i in range(1, 10)), "1"]


def test_headings_are_plain(values):
    found = parsed(values, "1.50, 1e1, 100, -0.0, 20.0, off")
    assert [value.heading for value in found] == ["1.5", "10", "100", "0", "20", "off"]


def test_whole_numbers_stay_whole_even_where_floats_end(values):
    found = parsed(values, "10..30 step 10, 18446744073709551615", "whole", off=False)
    assert settings(found) == [10, 20, 30, 2**64 - 1] and all(isinstance(v.setting, int) for v in found)


def test_intervals(values):
    from guidance_pack.guidance.schedule import Interval

    found = parsed(values, "0.2 to 0.8, 5 to 0.15 sigma, always, 0 to 0.5 percent, off", "interval")
    assert settings(found) == [
        Interval(0.2, 0.8), Interval(5.0, 0.15, "sigma"), Interval(), Interval(0.0, 0.5), "off",
    ]  # fmt: skip
    assert [value.heading for value in found] == ["0.2 to 0.8", "5 to 0.15 sigma", "always", "0 to 0.5", "off"]


def test_names(values):
    assert settings(parsed(values, "euler, heun", "name", ["euler", "heun"], off=False)) == ["euler", "heun"]


@pytest.mark.parametrize(
    ("text", "kind", "off", "words"),
    [
        ("1, abc", "number", True, "x_values has 'abc'. cfg weight takes numbers such as 1, 1.5, 2, .* or off"),
        ("", "number", True, "x_values is empty. cfg weight takes numbers"),
        ("nan", "number", True, "x_values has 'nan'"),
        ("1e999", "number", True, "x_values has '1e999'"),
        ("1..", "number", True, "x_values has '1..'"),
        ("1..2 step 0", "number", True, "a step other than 0"),
        ("1..2 step x", "number", True, "x_values has '1..2 step x'"),
        ("0..1 step 0.001", "number", True, "0..1 step 0.001 is 1001 values; at most 100"),
        ("0..1e30 step 1e-30", "number", True, "at most 100"),
        (", ".join(["1"] * 101), "number", True, "x_values gives 101 values; at most 100"),
        ("1.5", "whole", False, "x_values has '1.5'. cfg weight takes whole numbers"),
        ("off", "whole", False, "x_values has 'off'"),
        ("0.5", "interval", True, "intervals such as 0 to 0.5"),
        ("5 to 0.15", "interval", True, "got start 5 and end 0.15. cfg weight takes intervals .* 5 to 0.15 sigma"),
        ("0.8 to 0.2", "interval", True, "0 <= start <= end <= 1"),
        ("eulr", "name", False, "x_values has 'eulr'. cfg weight takes any of euler, heun"),
    ],
)
def test_mistakes_say_what_came_and_what_is_allowed(values, text, kind, off, words):
    with pytest.raises(ValueError, match=words):
        parsed(values, text, kind, ["euler", "heun"] if kind == "name" else (), off)
