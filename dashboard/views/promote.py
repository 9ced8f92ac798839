"""Promote: what is live, the evidence for its challenger, and the operator's decision.

A decision carries the hash of the evidence that was on the screen when its button was drawn, so an approval can never
mean evidence that nobody looked at: the API refuses it (412) when newer evidence stands, and the page shows that.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import person
from dashboard.evidence import comparison, draw_charts, draw_gate, draw_guardrails, draw_hash, draw_verdict
from dashboard.lineage import ASKED_FOR, draw_lineage, draw_lookup
from dashboard.plain import moment, plain, show_table
from dashboard.samples import draw_gate_samples, draw_samples
from dashboard.shapes import Approvals, Experiment, Ledger, Promotion
from dashboard.wordings import draw_wordings
from flywheel.errors import NotFoundError, UserError
from flywheel.tried import arms_in_words, gate_note, made_live
from flywheel.variants import SHIPPED, Variant

TABS = ("Decide", "Roll back", "Ledger", "Lineage")
DONE = {
    "promote": "{} is live now.",
    "approve": "Your approval of {} is kept; another person's is needed.",
    "reject": "{} was rejected.",
    "roll_back": "Rolled back: {} is live again.",
}


def decide(act: str, **bound_to: Any) -> None:
    reason_key = f"reason-{'roll_back' if act == 'roll_back' else 'decide'}"
    reason = st.session_state.get(reason_key, "").strip()

    def step() -> str:
        if not person.name():
            raise UserError("Write your name on the left first: the ledger keeps who decided.")
        if not reason:
            raise UserError("Write a reason first: the ledger keeps it beside your name.")
        promotion = person.api().decide(act, actor=person.name(), reason=reason, **bound_to)
        return DONE[promotion["kind"]].format(made_live(promotion))

    if person.act(step):
        st.session_state[reason_key] = ""


def draw_live(ledger: Ledger) -> None:
    live, served = ledger["live"], live_variant(ledger)
    since = next((row for row in ledger["data"] if row["id"] == live["epoch"]), None)
    with st.container(border=True, gap="xsmall"):
        st.caption(f"Live for {plain(live['alias'])}")
        st.subheader(plain(served or "nothing yet"), anchor=False)
        if since:
            st.caption(f"since {moment(since['created_at'])}, by {plain(since['actor'])}: {plain(since['reason'])}")
        else:
            st.caption("No promotion yet: the base model answers through its identity adapter.")


def live_variant(ledger: Ledger) -> Variant | None:
    """None while the appliance is starting."""
    live = ledger["live"]
    return Variant(live["adapter"], live.get("prompt")) if live["adapter"] else None


def draw_decision() -> None:
    running = [experiment for experiment in person.api().experiments() if experiment["state"] == "running"]
    if not running:
        st.text("Nothing waits for a decision. An experiment opens when a training run publishes an adapter.")
        return
    named = {experiment["id"]: arms_in_words(experiment)[1] for experiment in running}
    chosen = running[0]["id"]
    if len(running) > 1:
        chosen = st.selectbox("Experiment", list(named), format_func=named.__getitem__, key="experiment")
    experiment = person.api().experiment(chosen)
    st.subheader(f"Challenger {plain(arms_in_words(experiment)[1])}", anchor=False)
    evidence = draw_verdict(experiment)
    if evidence:
        st.text(comparison(evidence))
        draw_charts(evidence)
        st.markdown("**Guardrails**")
        draw_guardrails(evidence)
    draw_wordings(experiment)
    draw_challenger(experiment)
    draw_decision_form(experiment)


def draw_challenger(experiment: Experiment) -> None:
    """What the challenger is: offline checks, answers side by side, what it was made of, its card."""
    name = experiment["challenger"]
    gate = person.api().adapter(name)["gate"]
    checks, samples, ancestry, card = st.tabs(["Offline gate", "Sample answers", "Dataset and lineage", "Model card"])
    with checks:
        if note := gate_note(experiment):
            st.text(note)
        draw_gate(gate)
    with samples:
        st.markdown("**Live users**")
        draw_samples(experiment)
        st.markdown("**Gate prompts**")
        draw_gate_samples(gate)
    with ancestry, person.explained():
        draw_lineage(person.api().lineage_of_adapter(name))
    with card:
        draw_card(name)


def draw_card(adapter: str) -> None:
    """As plain text: it may hold what others wrote."""
    try:
        st.code(person.api().model_card(adapter), language=None, wrap_lines=True)
    except NotFoundError as error:
        st.text(str(error))


def draw_decision_form(experiment: Experiment) -> None:
    verdict = experiment["evidence"]["verdict"] if experiment["evidence"] else None
    approvals: Approvals = experiment.get("approvals") or {"needed": 1, "given": [], "missing": []}
    first_of_two = len(approvals["given"]) + 1 < approvals["needed"]
    with st.container(border=True):
        for given in approvals["given"]:
            st.text(f"Approved by {given['actor']}, {moment(given['created_at'])}: {given['reason']}")
        if approvals["needed"] > 1:
            st.caption(plain("; ".join(approvals["missing"])))
        st.text_area("Reason", key="reason-decide", placeholder="Why you decide so; the ledger keeps it.", height=80)
        override = verdict != "SHIP" and st.checkbox(
            "Override: promote although the verdict is not SHIP", key="override"
        )
        bound_to: dict[str, Any] = {
            "experiment_id": experiment["id"],
            "evidence_hash": experiment["evidence_hash"] or "",
        }
        with st.container(horizontal=True):
            st.button(
                "Give the first approval" if first_of_two else "Approve and make live",
                type="primary",
                on_click=decide,
                args=("promote",),
                kwargs=bound_to | ({"override": True} if override else {}),
            )
            st.button("Reject", on_click=decide, args=("reject",), kwargs=bound_to)
        draw_hash(experiment)


def draw_roll_back(ledger: Ledger) -> None:
    moves = [row for row in ledger["data"] if row["kind"] != "reject"]
    pairs = [pair for row in moves for pair in (_before(row), Variant(row["adapter"], row.get("prompt")))]
    tried = any(one.prompt for one in pairs)
    targets = {one.whole if tried else str(one): one for one in pairs if one != live_variant(ledger)}
    if not targets:
        st.text("Nothing to go back to: no adapter was live before this one.")
        return
    st.text("The adapter that was live before stays loaded, so going back takes about a second and loses no request.")
    target = targets[st.selectbox("Back to", list(targets), key="target")]
    st.text_area("Reason", key="reason-roll_back", placeholder="What is wrong with the live one.", height=80)
    bound_to = {"adapter": target.adapter, "prompt": target.prompt or SHIPPED}
    st.button("Roll back", type="primary", on_click=decide, args=("roll_back",), kwargs=bound_to)


def _before(row: Promotion) -> Variant:
    return Variant(row["previous"], row.get("previous_prompt"))


def draw_ledger(ledger: Ledger) -> None:
    rows = ledger["data"]
    if not rows:
        st.text("No decision yet.")
        return
    show_table(
        {
            "When": [moment(row["created_at"]) for row in rows],
            "Act": [row["kind"].replace("_", " ") for row in rows],
            "Adapter": [row["adapter"] for row in rows],
            "Prompt": [row.get("prompt") or SHIPPED for row in rows],
            "Before": [row["previous"] for row in rows],
            "Who": [row["actor"] for row in rows],
            "Why": [row["reason"] for row in rows],
            "Evidence": [(row["evidence_hash"] or "–")[:12] for row in rows],
        },
        alt="Ledger of promotions, newest first",
    )


st.title("Promote", anchor=False)
with person.explained():
    ledger = person.api().ledger()
    person.show_notice()
    draw_live(ledger)
    tabs = st.tabs(TABS, default="Lineage" if any(map(st.query_params.get, ASKED_FOR)) else "Decide")
    with tabs[0]:
        draw_decision()
    with tabs[1]:
        draw_roll_back(ledger)
    with tabs[2]:
        draw_ledger(ledger)
    with tabs[3]:
        draw_lookup()
