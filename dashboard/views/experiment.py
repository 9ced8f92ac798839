"""Experiment: champion against challenger on live users, drawn again every few seconds.

Looking often is safe: every figure here is valid at any time. The page only shows; deciding is on the Promote page.
"""

from __future__ import annotations

import streamlit as st

from dashboard import person
from dashboard.evidence import draw_charts, draw_guardrails, draw_hash, draw_verdict, interval
from dashboard.plain import figure, moment, plain
from dashboard.samples import draw_samples
from dashboard.shapes import Evidence, Experiment
from dashboard.wordings import draw_wordings
from flywheel.tried import arms_in_words, tried

REFRESH_SECONDS = 3


def choose(experiments: list[Experiment]) -> str:
    """The experiment to show: the newest, or the one that is picked."""
    title, choice = st.columns([5, 4], vertical_alignment="bottom")
    title.title("Experiment", anchor=False)
    labels = {
        one["id"]: f"{moment(one['created_at'])} · {arms_in_words(one)[1]} · {one['state']}" for one in experiments
    }
    return str(
        choice.selectbox(
            "Which experiment", list(labels), format_func=labels.__getitem__, label_visibility="collapsed", key="shown"
        )
    )


@st.fragment(run_every=REFRESH_SECONDS)
def draw(experiment_id: str) -> None:
    with person.explained():
        experiment = person.api().experiment(experiment_id)
        champion, challenger = arms_in_words(experiment)
        st.caption(
            f"{plain(experiment['alias'])}: champion {plain(champion)} against challenger {plain(challenger)}: "
            f"{tried(experiment)} · {plain(experiment['state'])}"
        )
        evidence = draw_verdict(experiment)
        if evidence is not None:
            draw_figures(evidence)
            draw_charts(evidence)
            st.subheader("Guardrails", anchor=False)
            draw_guardrails(evidence)
            draw_hash(experiment)
        draw_wordings(experiment)
        st.subheader("Sample answers", anchor=False)
        draw_samples(experiment)


def draw_figures(evidence: Evidence) -> None:
    users, mean = evidence["users"], evidence["mean"]
    cells = [column.container(border=True, gap="xsmall", height="stretch") for column in st.columns(5)]
    for cell, arm in zip(cells, ("champion", "challenger"), strict=False):
        cell.metric(f"Users, {arm}", users[arm])
        cell.caption(f"mean rating {figure(mean[arm])}  \nat least {evidence['minimum_users']} needed")
    cells[2].metric("Difference", figure(evidence["difference"], "{:+.3f}"))
    cells[2].caption(interval(evidence["confidence"]))
    cells[3].metric("E-value", figure(evidence["e_value"], "{:.3g}"))
    cells[3].caption(f"threshold {1 / evidence['alpha']:.0f}")
    ratio = evidence["sample_ratio"]
    cells[4].metric("Sample ratio", "right" if ratio["ok"] else "OFF")
    cells[4].caption(f"{users.get('excluded_both_arms', 0)} users in both arms")
    if evidence["smallest_visible_effect"] is not None:
        st.caption(f"With these users a difference of {evidence['smallest_visible_effect']:.3f} or more would show.")


with person.explained():
    if experiments := person.api().experiments():
        draw(choose(experiments))
    else:
        st.title("Experiment", anchor=False)
        st.text("No experiment yet. One opens by itself when a training run publishes an adapter.")
