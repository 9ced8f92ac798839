"""What an experiment's evidence says, in the forms that the Experiment and the Promote page share."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from dashboard.charts import difference_chart, e_value_chart
from dashboard.plain import figure, plain, show_table
from dashboard.shapes import Evidence, Experiment, Gate

Colour = Literal["green", "red", "gray", "orange"]
COLOURS: dict[str, Colour] = {"SHIP": "green", "ROLLBACK": "red", "INVALID": "red", "HOLD": "gray"}


def draw_verdict(experiment: Experiment) -> Evidence | None:
    """The verdict and the sentence that explains it. Returns the evidence, None before the first look."""
    evidence = experiment["evidence"]
    if evidence is None:
        st.badge("NO LOOK YET", color="gray")
        st.text("The first look is taken as soon as both arms have rated answers.")
        return None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(evidence["verdict"], color=COLOURS.get(evidence["verdict"], "orange"))
        st.text(evidence["sentence"])
    return evidence


def draw_charts(evidence: Evidence) -> None:
    """The course of the difference with its confidence sequence, and of the e-value."""
    if not evidence["looks"]:
        return
    left, right = st.columns(2, gap="medium")
    with left.container(border=True):
        st.caption("Challenger minus champion, with its confidence sequence")
        st.altair_chart(difference_chart(evidence["looks"]), alt="Difference of mean rating over users")
    with right.container(border=True):
        st.caption(f"Evidence that the challenger is better; {1 / evidence['alpha']:.0f} is enough (dashed)")
        st.altair_chart(e_value_chart(evidence["looks"], alpha=evidence["alpha"]), alt="E-value over users")


def draw_guardrails(evidence: Evidence) -> None:
    rails = evidence["guardrails"]
    show_table(
        {
            "Guardrail": [rail["name"].replace("_", " ") for rail in rails],
            "": ["holds" if rail["ok"] else "BROKEN" for rail in rails],
            "Champion": [figure(rail["champion"]) for rail in rails],
            "Challenger": [figure(rail["challenger"]) for rail in rails],
            "What it says": [rail["sentence"] for rail in rails],
        },
        alt="Guardrails of the experiment",
    )


def draw_gate(gate: Gate | None) -> None:
    """The offline gate's report: each check before and after, with the interval of the change."""
    if gate is None:
        st.text("This adapter has no gate report.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge("PASSED" if gate["passed"] else "NOT PASSED", color="green" if gate["passed"] else "red")
        st.text(gate["sentence"])
    checks = gate["checks"]
    show_table(
        {
            "Check": [check["name"].replace("_", " ") for check in checks],
            "": ["passed" if check["passed"] else "FAILED" for check in checks],
            "Before": [figure(check["before"]) for check in checks],
            "After": [figure(check["after"]) for check in checks],
            "Change (interval)": [interval(check["interval"]) for check in checks],
            "What it says": [check["sentence"] for check in checks],
        },
        alt="Checks of the offline gate",
    )


def comparison(evidence: Evidence) -> str:
    """The comparison in one line of figures."""
    users = evidence["users"]
    return (
        f"Difference of mean rating {figure(evidence['difference'], '{:+.3f}')} ({interval(evidence['confidence'])}), "
        f"e-value {figure(evidence['e_value'], '{:.3g}')} ({1 / evidence['alpha']:.0f} is enough), "
        f"{users['champion']} and {users['challenger']} users."
    )


def interval(bounds: list[float] | None) -> str:
    """An interval for people, e.g. "+0.12 to +0.31"; a dash where there is none."""
    return "–" if not bounds else f"{bounds[0]:+.3f} to {bounds[1]:+.3f}"


def draw_hash(experiment: Experiment) -> None:
    """The hash that an approval is bound to."""
    if experiment["evidence_hash"]:
        st.caption(f"Evidence {plain(experiment['evidence_hash'])}")
