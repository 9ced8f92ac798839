"""How far an adapter's answers are from those that were recorded."""

from __future__ import annotations

from serving.fingerprint import mean_distance


def test_the_distance_of_probes_is_a_mean_and_infinite_for_lists_that_do_not_match() -> None:
    assert mean_distance([[1.0, 2.0], [3.0]], [[1.5, 1.0], [3.0]]) == 0.5
    assert mean_distance([[1.0]], [[1.0, 2.0]]) == mean_distance([], []) == float("inf")
