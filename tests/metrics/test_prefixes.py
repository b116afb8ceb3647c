"""Curves of quality against bits: closed forms, and Bjontegaard's numbers of curves that differ by a factor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.metrics import PrefixCurve, bd_quality, bd_rate

BITS = [100, 200, 400, 800, 1600]


def test_gains_of_a_line() -> None:
    """Value that grows by one with every doubling: each step brings a quarter, half of the area."""
    curve = PrefixCurve([(bits, 20 + math.log2(bits / 100), bits // 10) for bits in reversed(BITS)], better="higher")
    np.testing.assert_allclose(curve.gains, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.steps, [0, 0.25, 0.25, 0.25, 0.25])
    assert curve.area == pytest.approx(0.5) and curve.points[0].tokens == 10
    assert curve.bits_for(0.5) == 400 and curve.bits_for(0.625) == pytest.approx(400 * 2**0.5)
    assert curve.bits_for(0) == 100 and math.isnan(curve.bits_for(1.5))


def test_front_loaded_codes_have_more_area() -> None:
    values = [9.0, 5.0, 3.0, 2.0, 1.5]
    early, late = (PrefixCurve(zip(BITS, rows, strict=True), better="lower") for rows in (values, [9, 8.5, 8, 6, 1.5]))
    assert early.area > 0.5 > late.area
    np.testing.assert_allclose(early.gains[1], 4 / 7.5)


@given(factor=st.floats(0.3, 3), fit=st.sampled_from(["linear", "cubic"]), better=st.sampled_from(["higher", "lower"]))
def test_rate_of_the_same_curve_at_other_cost(factor: float, fit: str, better: str) -> None:
    """Every quality at `factor` times the bits: a delta rate of factor - 1, to 1e-6."""
    sign = 1 if better == "higher" else -1
    values = [sign * value for value in (20.0, 23.1, 25.0, 27.2, 28.0)]
    anchor = PrefixCurve(zip(BITS, values, strict=True), better=better)  # type: ignore[arg-type]
    dearer = PrefixCurve(((factor * bits, value) for bits, value in zip(BITS, values, strict=True)), better=better)  # type: ignore[arg-type]
    assert bd_rate(dearer, anchor, fit=fit) == pytest.approx(factor - 1, abs=1e-6)  # type: ignore[arg-type]


@given(shift=st.floats(-3, 3), fit=st.sampled_from(["linear", "cubic"]), better=st.sampled_from(["higher", "lower"]))
def test_quality_of_the_same_curve_raised(shift: float, fit: str, better: str) -> None:
    values = [20.0, 23.1, 25.0, 27.2, 28.0]
    sign = 1 if better == "higher" else -1
    anchor, other = (
        PrefixCurve(((bits, sign * (value + more)) for bits, value in zip(BITS, values, strict=True)), better=better)  # type: ignore[arg-type]
        for more in (0, shift)
    )
    assert bd_quality(other, anchor, fit=fit) == pytest.approx(shift, abs=1e-9)  # type: ignore[arg-type]


def test_cubic_is_the_polynomial_of_vceg_m33() -> None:
    """Third-degree polynomials through log10 rate and PSNR, integrated over the overlap: against polyfit."""
    rates, psnr = [[685, 309, 157, 85], [777, 346, 170, 90]], [[40.2, 37.1, 34.2, 31.4], [40.0, 37.0, 34.3, 31.7]]
    low, high = max(map(min, psnr)), min(map(max, psnr))
    areas = []
    for rate, quality in zip(rates, psnr, strict=True):
        whole = np.polyint(np.polyfit(quality, np.log10(rate), 3))
        areas.append(np.polyval(whole, high) - np.polyval(whole, low))
    expected = 10 ** ((areas[1] - areas[0]) / (high - low)) - 1
    curves = [PrefixCurve(zip(*pair, strict=True), better="higher") for pair in zip(rates, psnr, strict=True)]
    assert bd_rate(curves[1], curves[0], fit="cubic") == pytest.approx(expected, rel=1e-8)
    assert bd_rate(curves[1], curves[0]) == pytest.approx(expected, abs=0.01)


def test_points_that_gain_nothing_are_left_out() -> None:
    clean = PrefixCurve([(100, 1.0), (400, 2.0)], better="higher")
    dented = PrefixCurve([(100, 1.0), (200, 0.8), (400, 2.0)], better="higher")
    assert bd_rate(dented, clean) == pytest.approx(0)


def test_bad_input_is_explained() -> None:
    with pytest.raises(ValueError, match="at least two points"):
        PrefixCurve([(1, 1)], better="higher")
    with pytest.raises(ValueError, match="of different bits"):
        PrefixCurve([(1, 1), (1, 2)], better="higher")
    with pytest.raises(ValueError, match="at least two points"):
        PrefixCurve([(1, 1), (2, math.nan)], better="higher")
    with pytest.raises(ValueError, match="'higher' or 'lower'"):
        PrefixCurve([(1, 1), (2, 2)], better="more")  # type: ignore[arg-type]
    up, down = PrefixCurve([(1, 1), (2, 2)], better="higher"), PrefixCurve([(1, 2), (2, 1)], better="lower")
    with pytest.raises(ValueError, match="hold different values"):
        bd_rate(up, down)
    with pytest.raises(ValueError, match="a cubic fit needs 4 points that rise"):
        bd_rate(up, up, fit="cubic")
    assert math.isnan(bd_rate(up, PrefixCurve([(1, 8), (2, 9)], better="higher")))
    assert np.isnan(PrefixCurve([(1, 2), (2, 2)], better="higher").gains).all()
