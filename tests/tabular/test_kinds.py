"""What the texts of a column mean. Oracles: hand-worked values, and Python's datetime."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow", reason="tables need pyarrow (the extra [cli])")
from nnaccel.tabular import dates, kinds
from nnaccel.tabular.kinds import Reading, Text
from nnaccel.tabular.missing_codes import find_codes
from nnaccel.tabular.numbers import to_float64


def decide(*cells, decimal="."):
    return kinds.decide(Text(pa.array(cells)), decimal)


# ---------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [
        ("1", ".", 1),
        (" 1.5 ", ".", 1.5),
        ("-.5", ".", -0.5),
        ("+2.", ".", 2),
        ("1e5", ".", 1e5),
        ("$63,122.34", ".", 63122.34),
        ("-$5", ".", -5),
        ("$-5", ".", -5),
        ("($1,234.50)", ".", -1234.5),
        ("€ 5", ".", 5),
        ("5 €", ".", 5),
        ("EUR 5", ".", 5),
        ("US$ 7", ".", 7),
        ("16.7%", ".", 0.167),
        ("1 234 567", ".", 1234567),
        ("1\u202f234", ".", 1234),
        ("1'234.5", ".", 1234.5),
        ("1,00,000", ".", 100000),
        ("−5", ".", -5),
        ("1,5", ",", 1.5),
        ("1.234,56", ",", 1234.56),
        ("1.234", ",", 1234),
        ("1.234", ".", 1.234),
        ("inf", ".", np.inf),
    ],
)
def test_numbers(text, decimal, value):
    assert to_float64(pa.array([text]), decimal)[0] == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["", "-", ".", "abc", "1,5", "1.2.3", "3 km", "01/02/2023", "12,34,56", "0x10", "1_000"]
)
def test_what_is_no_number(text):
    assert np.isnan(to_float64(pa.array([text]))[0])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_programs_write_is_read_exactly(value):
    assert to_float64(pa.array([repr(value), "$1"]))[0] == value


def test_evidence_of_a_decimal_mark():
    assert Text(pa.array(["1,5", "2,25", "1,234", "7"])).decimal_evidence() == (0, 2, 4)
    assert Text(pa.array(["1.5", "1.234", "1,234.5"])).decimal_evidence() == (2, 0, 3)
    columns = [Text(pa.array(["1,5", "2,5"])), Text(pa.array(["a, b", "1.5"]))]
    assert kinds.decimal_mark(columns) == ","
    assert kinds.decimal_mark([Text(pa.array(["1,234", "5,678"]))]) == "."
    # No group of digits begins with a zero; and one cell that tells is enough.
    assert Text(pa.array(["0,123", "-0,250", "a"])).decimal_evidence() == (0, 2, 2)
    assert np.isnan(to_float64(pa.array(["0,123"]))).all()
    assert kinds.decimal_mark([Text(pa.array(["1,234", "5,678", "7,901", "0,125"]))]) == ","
    assert kinds.decimal_mark([Text(pa.array(["-9999", "5,678", "7,901", "3,25"]))]) == ","


# ---------------------------------------------------------------------------- decisions


@pytest.mark.parametrize(
    ("cells", "reading"),
    [
        (["1", "2", None], Reading("number", ".")),
        (["1.5", "$2", "?"], Reading("number", ".")),
        (["007", "012", "100"], Reading("string")),
        (["02134", "2134"], Reading("string")),
        (["0", "10", "0.5"], Reading("number", ".")),
        (["1.1", "1.10", "1.2"], Reading("string")),
        (["1.50", "2.25", "10.00"], Reading("number", ".")),
        (["1.0", "2.5", "3.25"], Reading("number", ".")),
        (["9007199254740993", "9007199254740992"], Reading("string")),
        (["9007199254740993", "1", "2"], Reading("number", ".")),
        (["TRUE", "false"], Reading("boolean")),
        (["TRUE", "FALSE", "UNKNOWN"], Reading("string")),
        (["?", "", None], Reading("null")),
        (["2023-01-02", "2023-02-03"], Reading("date", "ymd")),
        (["13/02/2023", "01/02/2023"], Reading("date", "dmy")),
        (["02/13/2023", "01/02/2023"], Reading("date", "mdy")),
        (["13:05", "7:00"], Reading("time")),
        (["1 days 01:00:00", "2 days 02:00:00"], Reading("duration")),
        (["A12", "001"], Reading("string")),
        (["1", "2", "x"], Reading("string")),  # few different ones: categories
        (["20230102", "20230103"], Reading("number", ".")),
        (["Braund, Mr. Owen", "1,5"], Reading("string")),
    ],
)
def test_decisions(cells, reading):
    assert decide(*cells).reading == reading


@pytest.mark.parametrize("mark", ["?", "-", ".", " ", "missing", "NULL", "#NULL!", "n/a", "N.A."])
def test_marks_among_numbers_are_missing_and_counted(mark):
    decision = decide(*map(str, range(100)), *[mark] * 60)
    assert decision.reading == Reading("number", ".")
    assert decision.ignored == ((mark.strip(), 60),)


def test_other_words_among_numbers_are_missing_while_they_are_few():
    numbers = [str(i / 7) for i in range(90)]
    assert decide(*numbers, *["unclear"] * 10).ignored == (("unclear", 10),)
    assert decide(*numbers, *["unclear"] * 11).reading == Reading("string")


def test_a_new_column_is_read_as_it_was_decided():
    cells = Text(pa.array(["1,5", "x", None, "?", "2"]))
    values, unread = kinds.read(cells, Reading("number", ","))
    np.testing.assert_array_equal(values, [1.5, np.nan, np.nan, np.nan, 2])
    assert unread == (("x", 1),)
    values, unread = kinds.read(Text(pa.array(["True", "no"])), Reading("boolean"))
    np.testing.assert_array_equal(values, [1, np.nan])
    assert unread == (("no", 1),)


# ---------------------------------------------------------------------------- dates

MOMENTS = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1)).map(
    lambda t: t.replace(microsecond=0)
)
EPOCH = dt.datetime(1970, 1, 1)


@settings(deadline=None)
@given(MOMENTS)
def test_dates_agree_with_python(moment):
    expected = (moment - EPOCH).total_seconds()
    day = expected - expected % 86400
    for form, written, value in (
        ("ymd", moment.isoformat(), expected),
        ("ymd", moment.strftime("%Y/%m/%d %H:%M:%S"), expected),
        ("ymd", moment.isoformat() + "Z", expected),
        ("ymd", moment.isoformat() + "+01:30", expected - 5400),
        ("ymd", moment.strftime("%Y-%m-%d %I:%M:%S %p"), expected),
        ("dmy", moment.strftime("%d.%m.%Y"), day),
        ("mdy", moment.strftime("%m/%d/%Y"), day),
        ("d month y", moment.strftime("%d-%b-%Y"), day),
        ("month d y", moment.strftime("%B %d, %Y"), day),
    ):
        assert dates.to_moments(pa.array([written]), form)[0] == value, written


@pytest.mark.parametrize("text", ["2023-02-30", "2023-13-01", "2023", "x", "", "2023-01-02 25:00"])
def test_what_is_no_date(text):
    assert all(np.isnan(dates.to_moments(pa.array([text]), form)[0]) for form in dates.FORMS)


def test_times_and_durations():
    times = dates.to_times(pa.array(["00:00", "13:05:07.5", "1:05 pm", "12:30 am", "25:00", "x"]))
    np.testing.assert_array_equal(times, [0, 47107.5, 47100, 1800, np.nan, np.nan])
    spans = dates.to_durations(
        pa.array(["2 days 02:02:00", "-1 days", "1 day, 3:00:00", "100:00:00", "x", None])
    )
    np.testing.assert_array_equal(spans, [180120, -86400, 97200, 360000, np.nan, np.nan])


def test_day_and_month_are_told_apart_by_the_order_of_rows_where_nothing_else_does():
    in_order = [f"{day:02}/03/2023" for day in range(1, 13)]
    decision = decide(*in_order)
    assert (decision.reading.form, decision.ambiguous) == ("dmy", True)
    decision = decide(*(f"03/{day:02}/2023" for day in range(1, 13)))
    assert (decision.reading.form, decision.ambiguous) == ("mdy", True)


def test_parts_of_a_date():
    moment = np.array([(dt.datetime(2024, 1, 1, 6) - EPOCH).total_seconds(), np.nan])
    assert dates.PARTS["days"](moment, xp=np)[0] == 19723.25
    assert dates.PARTS["cos year"](moment, xp=np)[0] == pytest.approx(1, abs=1e-4)
    assert dates.PARTS["sin day"](moment, xp=np)[0] == pytest.approx(1)
    week = [dates.PARTS["sin week"](moment + 86400 * i, xp=np)[0] for i in range(7)]
    assert sum(week) == pytest.approx(0, abs=1e-12)
    assert all(np.isnan(part(moment, xp=np)[1]) for part in dates.PARTS.values())


def test_the_first_day_of_a_year_is_that_of_the_calendar():
    days = np.arange(-720_000.0, 1_500_000.0)  # from the year -1 to 6076
    years = days.astype("M8[D]").astype("M8[Y]").astype("M8[D]").astype(np.float64)
    np.testing.assert_array_equal(dates.first_day(days, xp=np), years)


# ---------------------------------------------------------------------------- codes for missing


@pytest.mark.parametrize("code", [-9999.0, -200.0, 999.0, 1e20])
def test_a_code_far_off_is_found(code):
    values = np.random.default_rng(0).normal(20, 5, 600)
    values[:24], values[24] = code, np.nan
    assert find_codes({"x": values}) == {"x": {code: 24}}


def test_what_is_measured_is_no_code():
    rng = np.random.default_rng(0)
    columns = {
        "long tail": np.round(rng.lognormal(0, 2, 3000), 1),
        "two values": (rng.random(500) < 0.1) * 999.0,
        "one far off": np.append(rng.normal(size=500), 1e6),
        "counts": rng.poisson(1.0, 500).astype(float),
        "capped": np.minimum(rng.exponential(1, 2000), 3.0),
    }
    assert find_codes(columns) == {}


def test_a_code_of_one_column_is_one_in_others():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 5, 300), rng.uniform(1, 900, 300)
    a[:9], b[:5] = -200, -200
    assert find_codes({"a": a, "b": b, "c": b - 450}) == {"a": {-200.0: 9}, "b": {-200.0: 5}}
