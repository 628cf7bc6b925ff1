"""Charts: ticks, ranges, and where marks are drawn."""

import re
from xml.etree import ElementTree

import pytest

pytest.importorskip("rich", reason="the report needs the extra [cli]")

from nnaccel.reporting.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    is_long,
    log_span,
    log_ticks,
    span,
    tick,
    ticks,
)

EDGES = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, TOP  # left, right, bottom, top


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-0.31, 0.12, [-0.3, -0.2, -0.1, 0, 0.1]),
        (1e6, 1.00001e6, [1e6 + 2 * i for i in range(6)]),
        (3, 3.9, [3, 3.2, 3.4, 3.6, 3.8]),
        (0.5, 1.5, [0.6, 0.8, 1.0, 1.2, 1.4]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected, abs=1e-12)


def test_ticks_of_a_logarithmic_axis():
    assert log_ticks(-2.0, 0.5) == pytest.approx([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2])
    assert log_ticks(-5.0, 1.0) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.3, "0.3"), (1234, "1234"), (25000, "25,000"), (2e7, "2e7"), (1e-5, "1e-5")],
)
def test_numbers_at_ticks(value, text):
    assert tick(value) == text


def test_ranges():
    assert span([1.0, 3.0], [2.0], margin=0.0) == (1.0, 3.0)
    assert span([0.0, 100.0]) == (-4.0, 104.0)
    assert span([5.0, float("nan")]) == (4.5, 5.5)
    assert span([0.0]) == (-1.0, 1.0)
    assert span([float("inf")]) == (-0.04, 1.04)
    low, high = log_span([1.0, 100.0])
    assert (low * high, high / low) == pytest.approx((100.0, 100.0**1.08))


def test_an_axis_is_logarithmic_where_positive_numbers_lie_far_apart():
    assert is_long([1.0, 31.0])
    assert not is_long([1.0, 29.0])
    assert not is_long([0.0, 1000.0])
    assert not is_long([float("nan")])


def drawn(chart, css):
    """The commands of the path of that class."""
    picture = ElementTree.fromstring(chart.svg("title", "words"))
    [path] = [e for e in picture.iter("path") if e.get("class") == css]
    return re.findall(r"[MLHh][^MLHh]*", path.get("d"))


def test_marks_are_where_their_numbers_are():
    left, right, bottom, top = EDGES
    chart = Chart((0.0, 10.0), (-1.0, 1.0), ("x", "y")).line([0, 5, 10], [-1, 0, 1], "a")
    middle = f"L{(left + right) / 2:.1f} {(top + bottom) / 2:.1f}"
    ends = f"M{left:.1f} {bottom:.1f}", f"L{right:.1f} {top:.1f}"
    assert drawn(chart, "line a") == [ends[0], middle, ends[1]]
    chart.dots([10], [1], "a").whiskers([0], [-1], [7], "a")
    assert drawn(chart, "dots a") == [f"M{right:.1f} {top:.1f}", "h0"]
    # What is beyond an axis ends there.
    assert drawn(chart, "whiskers a") == [ends[0], f"L{left:.1f} {top:.1f}"]


def test_what_is_not_finite_interrupts_a_line():
    nan = float("nan")
    chart = Chart((0.0, 4.0), (0.0, 1.0), ("x", "y")).line(range(5), [0, 1, nan, 1, 0], "a")
    assert [word[0] for word in drawn(chart, "line a")] == ["M", "L", "M", "L"]
    log = Chart((0.0, 4.0), (0.1, 1.0), ("x", "y"), log=True).line(range(3), [1, 0, 1], "a")
    assert [word[0] for word in drawn(log, "line a")] == ["M", "M"]


def test_a_logarithmic_axis_has_its_middle_at_the_geometric_mean():
    _, _, bottom, top = EDGES
    chart = Chart((0.0, 1.0), (0.01, 1.0), ("x", "y"), log=True).line([0], [0.1], "a")
    assert drawn(chart, "line a") == [f"M{LEFT:.1f} {(top + bottom) / 2:.1f}"]


def test_a_long_line_keeps_its_ends_and_few_points():
    chart = Chart((0.0, 5000.0), (0.0, 5000.0), ("x", "y")).line(range(5000), range(5000), "a")
    words = drawn(chart, "line a")
    assert len(words) == 501
    assert words[-1] == f"L{LEFT + 4999 / 5000 * (WIDTH - RIGHT - LEFT):.1f} {TOP:.1f}"


@pytest.mark.parametrize(("n", "shown"), [(1, ["1"]), (2, ["1", "2"]), (30, ["10", "20", "30"])])
def test_epochs_are_whole_numbers(n, shown):
    chart = Chart((0.5, n + 0.5), (0.0, 1.0), ("epoch", "y"), whole=True)
    picture = ElementTree.fromstring(chart.svg("title", "words"))
    at_the_bottom = [e for e in picture.iter("text") if e.get("y") == str(HEIGHT - BOTTOM + 16)]
    assert [e.text for e in at_the_bottom] == shown
