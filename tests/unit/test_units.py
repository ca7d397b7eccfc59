import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_longctx.units import duration, quantity, tokens

SCALES = {"": 1, "k": 10**3, "M": 10**6, "Ki": 2**10, "Mi": 2**20}


@given(st.integers(0, 10**7), st.sampled_from(sorted(SCALES)), st.sampled_from(["", ",", "_"]))
def test_a_whole_number_with_a_unit_is_that_many(number, unit, grouping):
    assert tokens(f"{number:{grouping}}{unit}") == number * SCALES[unit]


@example(1001, "k")
@example(8_200, "M")
@given(st.integers(0, 10**7), st.sampled_from(["k", "M"]))
def test_three_decimals_of_a_thousand_are_exact(thousandths, unit):
    """1.001k is 1001, although no binary fraction equals 1.001."""
    assert tokens(f"{thousandths // 1000}.{thousandths % 1000:03d}{unit}") * 1000 == thousandths * SCALES[unit]


@given(st.integers(0, 10**8))
def test_an_int_is_itself(number):
    assert tokens(number) == number


@pytest.mark.parametrize(
    ("written", "meant"),
    [("2mi", 2 * 2**20), ("2KI", 2048), ("3K", 3000), ("1.5Ki", 1536), ("0.5M", 500_000), (" 10 M ", 10_000_000)],
)
def test_case_spaces_and_fractions_are_read(written, meant):
    assert tokens(written) == meant


@pytest.mark.parametrize(
    "written",
    ["", " ", "many", "-1", "+1", "1.", ".5k", "1e6", "0x10", "1Gi", "2MiB", "2 000", "_1", "k", "inf", "nan"],
)
def test_what_is_no_count_is_refused_with_an_example_of_one(written):
    with pytest.raises(ValueError, match=r"must be a token count, for example .*128Ki"):
        tokens(written)


@pytest.mark.parametrize("written", ["1.5", "1.0001k", "0.0001Ki"])
def test_a_part_of_a_token_is_refused(written):
    with pytest.raises(ValueError, match="must be a whole number of tokens"):
        tokens(written)


@pytest.mark.parametrize("written", ["1k\u0131", "1K\u0130", "9" * 400 + ".5"])
def test_letters_that_only_look_like_units_and_absurd_numbers_are_value_errors_too(written):
    with pytest.raises(ValueError, match="token"):
        tokens(written)


@given(st.text())
def test_any_text_is_a_count_or_a_value_error(written):
    try:
        count = tokens(written)
    except ValueError:
        return
    assert count >= 0


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (0, "0.00 s"),
        (0.004, "0.00 s"),
        (9.99, "9.99 s"),
        (10, "10.0 s"),
        (119.9, "119.9 s"),
        (120, "2 min 00 s"),
        (179.7, "3 min 00 s"),
        (3725, "62 min 05 s"),
    ],
)
def test_durations_grow_coarser(seconds, message):
    assert duration(seconds) == message


@pytest.mark.parametrize(
    ("value", "unit", "message"),
    [
        (0, "s", "0 s"),
        (1_234_567, "tokens", "1,234,567 tokens"),
        (0.1 + 0.2, "s", "0.3 s"),
        (1.25, "x", "1.25x"),
        (2.0, "x", "2x"),
        (0.01, "", "0.01"),
        (400, "", "400"),
        (float("inf"), "s", "inf s"),
        (float("nan"), "s", "nan s"),
    ],
)
def test_a_quantity_carries_its_unit_and_no_noise(value, unit, message):
    assert quantity(value, unit) == message
