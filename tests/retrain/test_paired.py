from __future__ import annotations

import pytest

from retrain.paired import Paired, compare


def test_pairs_are_counted_in_the_order_of_the_prompts() -> None:
    assert compare([True, True, False, False, True], [True, False, True, False, False]) == Paired(1, 2, 1, 1)


def test_interval_is_newcombes_tenth_method() -> None:
    """Table II of the 1998 paper: cells 36, 12, 2, 0 give 0.0569 to 0.3404."""
    low, high = Paired(36, 2, 12, 0).interval(alpha=0.05)
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=1e-4)
    assert Paired(36, 12, 2, 0).interval(alpha=0.05) == pytest.approx((-high, -low))


def test_interval_without_any_change_is_as_wide_as_wilsons() -> None:
    z2 = 1.959963984540054**2
    assert Paired(43, 0, 0, 0).interval(alpha=0.05) == pytest.approx((-z2 / (43 + z2), z2 / (43 + z2)))


def test_mcnemar_one_sided() -> None:
    assert Paired(0, 25, 10, 0).p_worse() == pytest.approx(0.016673847800120715 / 2)
    assert Paired(0, 10, 25, 0).p_worse() == 1.0
    assert Paired(50, 0, 0, 0).p_worse() == 1.0
