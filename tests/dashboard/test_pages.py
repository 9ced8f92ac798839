"""Each page, run by Streamlit's own test harness against the stand-in API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.dashboard.fake_records import CHALLENGER, CHAMPION, HASH, IDENTITY, Records

OpenPage = Callable[..., AppTest]


def texts(page: AppTest) -> str:
    """Every plain and Markdown text on the page, without the escapes."""
    shown = [*page.text, *page.caption, *page.subheader, *page.error, *page.success, *page.info, *page.markdown]
    return "\n".join(str(element.value) for element in shown).replace("\\", "").replace("\u2060", "")


def cells(page: AppTest) -> str:
    """What stands in the page's tables, without the escapes."""
    return "\n".join(table.value.to_string() for table in page.table).replace("\\", "")


def test_question_is_answered_and_shown_with_its_passage(open_page: OpenPage, records: Records) -> None:
    page = open_page("chat")
    page.chat_input[0].set_value("What does a late book cost?").run()
    assert "20 cents a day [1]." in texts(page)
    assert "[1] Library cards – Late fees · cited" in texts(page)
    kind, body = records.received[0]
    assert (kind, body["model"], body["user"], body["stream"]) == ("chat", "flywheel", "Mira", True)


def test_second_question_carries_the_conversation(open_page: OpenPage, records: Records) -> None:
    page = open_page("chat")
    page.chat_input[0].set_value("What does a late book cost?").run()
    page.chat_input[0].set_value("And a film?").run()
    first, second = (body for kind, body in records.received if kind == "chat")
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["metadata"] == first["metadata"]


def test_stars_replace_thumbs_and_both_reach_the_api(open_page: OpenPage, records: Records) -> None:
    page = open_page("chat")
    page.chat_input[0].set_value("What does a late book cost?").run()
    thumbs, stars = page.feedback
    thumbs.set_value(0).run()
    stars.set_value(3).run()
    given = [body for kind, body in records.received if kind == "feedback"]
    assert [body["value"] for body in given] == [False, 4]
    assert {body["completion_id"] for body in given} == {"chatcmpl-new"}
    assert page.session_state["thumbs-chatcmpl-new"] is None


def test_comment_and_correction_are_sent_together(open_page: OpenPage, records: Records) -> None:
    page = open_page("chat")
    page.chat_input[0].set_value("What does a late book cost?").run()
    page.text_area("comment-chatcmpl-new").set_value("Too long")
    page.text_area("correction-chatcmpl-new").set_value("20 cents.")
    next(button for button in page.button if button.label == "Send").click().run()
    assert records.received[-1][1] | {"completion_id": "x"} == {
        "completion_id": "x",
        "user": "Mira",
        "comment": "Too long",
        "correction": "20 cents.",
    }


def test_engine_error_in_the_stream_is_a_sentence_and_no_turn(open_page: OpenPage, records: Records) -> None:
    records.break_stream = True
    page = open_page("chat")
    page.chat_input[0].set_value("What does a late book cost?").run()
    assert "The engine stopped." in texts(page)
    assert page.session_state["conversation"].turns == []


def test_verdicts_reach_the_api_and_the_next_pair_follows(open_page: OpenPage, records: Records) -> None:
    page = open_page("review")
    assert "3 waiting · 0 decided" in texts(page)
    page.button("verdict-b-pair-1").click().run()
    page.button("verdict-neither-pair-2").click().run()
    judged = [(body["pair_id"], body["verdict"], body["reviewer"]) for _, body in records.received]
    assert judged == [("pair-1", "b", "Mira"), ("pair-2", "neither", "Mira")]
    assert "1 waiting · 1 decided · 1 set aside · 2 judged by you just now" in texts(page)


def test_pair_judged_elsewhere_meanwhile_is_passed_over_silently(open_page: OpenPage, records: Records) -> None:
    page = open_page("review")
    records.judged["pair-1"] = "a"
    page.button("verdict-b-pair-1").click().run()
    assert not page.error
    assert records.pairs[1]["question"] in texts(page)


def test_empty_queue_offers_to_make_pairs(open_page: OpenPage, records: Records) -> None:
    records.judged = {pair["id"]: "a" for pair in records.pairs}
    page = open_page("review")
    assert "Nothing is waiting" in texts(page)
    page.button[0].click().run()
    assert "1 new pairs from 1 answers." in texts(page)


def test_review_without_a_name_asks_for_it(open_page: OpenPage, records: Records) -> None:
    page = open_page("review", name="")
    assert "Write your name" in texts(page)
    assert not page.button


def test_experiment_shows_verdict_users_and_e_value(open_page: OpenPage) -> None:
    page = open_page("experiment")
    assert "the e-value 251 is past the threshold 50" in texts(page)
    figures = {metric.label: metric.value for metric in page.metric}
    assert figures["Users, challenger"] == "182"
    assert figures["E-value"] == "251"
    assert len(page.get("vega_lite_chart")) == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "the challenger answers 0.5 of the users"),
        ({"ramp": [0.01, 0.05], "step": 1}, "the challenger answers 0.05 of the users, later 0.5"),
        ({"mode": "shadow"}, "for the record only"),
        ({"mode": "interleaved"}, "beside the champion for 0.5 of the users who can pick one"),
    ],
)
def test_experiment_tells_how_the_challenger_is_tried(
    open_page: OpenPage, records: Records, values: dict[str, Any], words: str
) -> None:
    records.experiment |= values
    page = open_page("experiment")
    assert any(words in caption.value for caption in page.caption)


def test_experiment_before_its_first_look_is_no_error(open_page: OpenPage, records: Records) -> None:
    records.experiment |= {"evidence": None, "evidence_hash": None}
    page = open_page("experiment")
    assert not page.error
    assert "The first look is taken" in texts(page)


def test_everything_a_decision_rests_on_stands_on_one_page(open_page: OpenPage) -> None:
    page = open_page("promote")
    assert len(page.get("vega_lite_chart")) == 2
    assert "Trained with the recipe `dpo-sft`" in page.code[0].value
    shown = texts(page)
    for part in (
        "20 cents a day [1].",
        "It costs 3 euros [1].",
        "Thanks for asking!",
        "1 of 300 pairs",
        "rated 0 by user-7",
    ):
        assert part in shown
    tables = cells(page)
    for part in ("ds-1234567890ab", "recipe dpo-sft", "empty or cut answers", "fact accuracy"):
        assert part in tables


def test_adapter_without_card_or_kept_answers_is_no_error(open_page: OpenPage, records: Records) -> None:
    records.card = ""
    page = open_page("promote")
    assert "published without a model card" in texts(page)
    assert not page.error


def test_first_of_two_approvals_is_kept_and_the_second_makes_it_live(open_page: OpenPage, records: Records) -> None:
    records.experiment["approvals"]["needed"] = 2
    page = open_page("promote")
    for label, shown in (
        ("Give the first approval", f"Your approval of {CHALLENGER} is kept; another person's is needed."),
        ("Approve and make live", f"{CHALLENGER} is live now."),
    ):
        page.text_area("reason-decide").set_value("Clearly better")
        next(button for button in page.button if button.label == label).click().run()
        assert shown in texts(page)


def test_first_approval_is_shown_with_who_is_missing(open_page: OpenPage, records: Records) -> None:
    given = {"actor": "Ada", "reason": "reads well", "created_at": "2026-11-20T09:00:00+00:00"}
    records.experiment["approvals"] = {"needed": 2, "given": [given], "missing": ["somebody else than Ada is needed"]}
    shown = texts(open_page("promote"))
    assert "Approved by Ada, 2026-11-20 09:00 UTC: reads well" in shown
    assert "somebody else than Ada is needed" in shown


def test_approval_is_bound_to_the_evidence_on_the_screen(open_page: OpenPage, records: Records) -> None:
    page = open_page("promote")
    page.text_area("reason-decide").set_value("Clearly better")
    page.button[0].click().run()
    body = records.received[-1][1]
    assert body == {
        "act": "promote",
        "actor": "Mira",
        "reason": "Clearly better",
        "experiment_id": "exp-1",
        "evidence_hash": HASH,
    }
    assert f"{CHALLENGER} is live now." in texts(page)


def test_newer_evidence_refuses_the_approval_and_says_what_is_missing(open_page: OpenPage, records: Records) -> None:
    page = open_page("promote")
    records.experiment["evidence_hash"] = HASH[::-1]
    page.text_area("reason-decide").set_value("Clearly better")
    page.button[0].click().run()
    assert "This is missing" in texts(page)
    assert "look at it again" in texts(page)
    assert records.live["adapter"] == CHAMPION


def test_decision_without_a_reason_never_leaves_the_page(open_page: OpenPage, records: Records) -> None:
    page = open_page("promote")
    page.button[0].click().run()
    assert "Write a reason first" in texts(page)
    assert records.received == []


def test_override_is_offered_only_while_the_verdict_is_not_ship(open_page: OpenPage, records: Records) -> None:
    assert not open_page("promote").checkbox
    records.experiment["evidence"]["verdict"] = "HOLD"
    page = open_page("promote")
    page.checkbox[0].check().run()
    page.text_area("reason-decide").set_value("Known limits")
    page.button[0].click().run()
    assert records.received[-1][1]["override"] is True


def test_roll_back_goes_to_the_adapter_that_was_live_before(open_page: OpenPage, records: Records) -> None:
    page = open_page("promote")
    page.text_area("reason-roll_back").set_value("Wrong fees")
    next(button for button in page.button if button.label == "Roll back").click().run()
    assert records.received[-1][1] == {
        "act": "roll_back",
        "actor": "Mira",
        "reason": "Wrong fees",
        "adapter": IDENTITY,
        "prompt": "shipped",
    }
    assert records.live["adapter"] == IDENTITY


@pytest.mark.parametrize(
    ("completion_id", "shown"),
    [("chatcmpl-9", "1 of 300 pairs"), ("nothing", "No completion 'nothing' is known here.")],
)
def test_lineage_is_looked_up_by_completion_id(open_page: OpenPage, completion_id: str, shown: str) -> None:
    page = open_page("promote")
    page.text_input("completion").set_value(completion_id).run()
    assert shown in texts(page)


def test_lineage_of_an_answer_names_the_versions_it_was_made_with(open_page: OpenPage) -> None:
    page = open_page("promote")
    page.text_input("completion").set_value("chatcmpl-9").run()
    assert "prompt version p-1 · index version i-1 · router version r-1" in cells(page)


def test_everything_made_from_a_users_words_is_looked_up_by_name(open_page: OpenPage) -> None:
    page = open_page("promote")
    page.text_input("user").set_value("user-7").run()
    assert "pair-1" in cells(page)
    page.text_input("user").set_value("nobody").run()
    assert "Nobody called 'nobody'" in texts(page)


@pytest.mark.parametrize("name", ["chat", "review", "experiment", "promote"])
def test_page_without_an_api_is_one_sentence(open_page: OpenPage, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    page = open_page(name)
    monkeypatch.setenv("FLYWHEEL_DASHBOARD__API_URL", "http://127.0.0.1:9")
    page.run()
    assert [str(error.value).count("cannot be reached") for error in page.error] == [1]
    assert not page.exception


def test_a_person_signs_in_with_a_key_and_their_name_comes_with_it(open_page: OpenPage, records: Records) -> None:
    records.key = "sk-fw-right"
    page = open_page("chat", name="")
    assert [box.label for box in page.text_input] == ["API key"]
    assert not page.chat_input
    page.text_input[0].set_value("sk-fw-wrong")
    page.button[0].click().run()
    assert "This API key is not valid." in texts(page)
    assert not page.chat_input
    page.text_input[0].set_value(" sk-fw-right ")
    page.button[0].click().run()
    assert page.chat_input
    assert page.text_input(key="name").value == "Mira"


def test_a_shared_key_signs_everybody_in(
    open_page: OpenPage, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.key = "sk-fw-shared"
    monkeypatch.setenv("FLYWHEEL_API_KEY", "sk-fw-shared")
    assert open_page("chat").chat_input
