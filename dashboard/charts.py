"""The two drawings of an experiment's evidence over its looks, users counted on the x axis.

The difference of the arms' means (challenger minus champion) with its confidence sequence, which may be read at every
look; and the e-value on a log scale, with the threshold 1/α at which the challenger is declared better.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from dashboard.shapes import Look
from dashboard.theme import ACCENT, BAD, LINE, MUTED

USERS = alt.X("users:Q", title="users with a rating, both arms", axis=alt.Axis(tickCount=6, grid=False, format="d"))
SMALLEST_E_VALUE = 1e-4
"""Below this the curve runs along the floor: a log scale has no zero."""


def difference_chart(looks: Sequence[Look]) -> alt.LayerChart | alt.FacetChart:
    """The band that holds the true difference at every look at once, with a line at no difference."""
    frame = pd.DataFrame(looks)
    frame[["low", "high"]] = frame[["low", "high"]].clip(-1, 1)
    y = alt.Y("low:Q", title="difference of mean rating", axis=alt.Axis(format="+.2f", tickCount=5))
    chart = alt.Chart(frame).encode(x=USERS)
    band = chart.mark_area(color=ACCENT, opacity=0.16).encode(y=y, y2="high:Q")
    line = chart.mark_line(color=ACCENT, strokeWidth=2, point=len(looks) == 1).encode(
        y=alt.Y("difference:Q", title="difference of mean rating"),
        tooltip=[
            alt.Tooltip("users:Q"),
            alt.Tooltip("difference:Q", format="+.3f"),
            alt.Tooltip("low:Q", format="+.3f"),
            alt.Tooltip("high:Q", format="+.3f"),
        ],
    )
    return _calm(alt.layer(band, _rule(0.0, MUTED), line))


def e_value_chart(looks: Sequence[Look], *, alpha: float) -> alt.LayerChart | alt.FacetChart:
    """Evidence that the challenger is better: 1 says nothing, 1/α is enough."""
    frame = pd.DataFrame(looks)
    frame["e_value"] = frame["e_value"].clip(lower=SMALLEST_E_VALUE)
    top = max(float(frame["e_value"].max()), 1 / alpha) * 2
    scale = alt.Scale(type="log", domain=[min(float(frame["e_value"].min()), 0.5), top])
    axis = alt.Axis(format="~g", values=[10.0**power for power in range(-4, 13, 1 if top < 1e5 else 3)])
    line = (
        alt.Chart(frame)
        .mark_line(color=ACCENT, strokeWidth=2, point=len(looks) == 1)
        .encode(
            x=USERS,
            y=alt.Y("e_value:Q", title="e-value (log scale)", scale=scale, axis=axis),
            tooltip=[alt.Tooltip("users:Q"), alt.Tooltip("e_value:Q", format=".3~g")],
        )
    )
    return _calm(alt.layer(_rule(1 / alpha, BAD, dash=True), _rule(1.0, MUTED), line))


def _rule(value: float, colour: str, *, dash: bool = False) -> alt.Chart:
    rule: alt.Chart = alt.Chart(pd.DataFrame({"value": [value]})).mark_rule(
        color=colour, strokeDash=[4, 4] if dash else [1, 0]
    )
    return rule.encode(y="value:Q")


def _calm(chart: alt.LayerChart | alt.FacetChart) -> alt.LayerChart | alt.FacetChart:
    calm: alt.LayerChart | alt.FacetChart = chart.properties(height=240).configure_axis(
        gridColor=LINE, labelColor=MUTED, titleColor=MUTED, titleFontWeight="normal", domain=False, tickColor=LINE
    )
    return calm
