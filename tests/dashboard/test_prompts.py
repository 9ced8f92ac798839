"""What the pages show of prompts: both arms' wordings, why no gate is asked, what a rollback would bring back."""

from __future__ import annotations

import pytest

from tests.dashboard.fake_records import CHAMPION, Records, prompt
from tests.dashboard.test_pages import OpenPage, cells, texts


@pytest.fixture(autouse=True)
def prompt_alone(records: Records) -> None:
    """The live adapter challenges itself with another prompt."""
    prompts = {"champion": prompt("p-1", "Be plain."), "challenger": prompt("p-2", "Be *brief*.")}
    records.experiment |= {"challenger": CHAMPION, "champion_prompt": "p-1", "challenger_prompt": "p-2"}
    records.experiment["prompts"] = prompts


@pytest.mark.parametrize("name", ["experiment", "promote"])
def test_both_wordings_stand_side_by_side_as_plain_text(open_page: OpenPage, name: str) -> None:
    page = open_page(name)
    plain = [element.value for element in page.text]
    assert {"Be plain.", "Be *brief*."} <= set(plain)
    assert sum("tracker.invalid/w.png" in text for text in plain) == 2
    captions = [element.value for element in page.caption]
    assert captions.count("Above the passages · differs") == 2
    assert captions.count("Small talk") == 2
    assert f"{CHAMPION} with prompt p-2" in texts(page)


def test_wordings_that_are_the_same_are_not_shown(open_page: OpenPage, records: Records) -> None:
    records.experiment["prompts"]["challenger"] = records.experiment["prompts"]["champion"]
    assert "Above the passages" not in texts(open_page("experiment"))


def test_a_prompt_alone_says_why_no_gate_is_asked_and_goes_live_under_its_name(open_page: OpenPage) -> None:
    page = open_page("promote")
    assert "The gate is not asked" in texts(page)
    page.text_area("reason-decide").set_value("Clearly better")
    page.button[0].click().run()
    assert f"{CHAMPION} with prompt p-2 is live now." in texts(page)
    assert "p-2" in cells(page)


def test_a_rollback_names_the_prompt_it_brings_back(open_page: OpenPage, records: Records) -> None:
    newest = {"adapter": CHAMPION, "prompt": "p-2", "previous": CHAMPION, "previous_prompt": "p-1"}
    records.promotions.insert(0, records.promotions[0] | {"id": "promo-2", **newest})
    page = open_page("promote")
    assert page.selectbox(key="target").options[0] == f"{CHAMPION} with prompt p-1"
    page.text_area("reason-roll_back").set_value("Too short")
    next(button for button in page.button if button.label == "Roll back").click().run()
    sent = records.received[-1][1]
    assert (sent["adapter"], sent["prompt"]) == (CHAMPION, "p-1")


def test_lineage_of_an_answer_shows_its_wording(open_page: OpenPage) -> None:
    page = open_page("promote")
    page.text_input("completion").set_value("chatcmpl-9").run()
    [shown] = [one for one in page.expander if "Prompt" in one.label]
    assert shown.label.replace("\\", "") == "Prompt p-1 · shorter · by Pia"
    assert shown.text[0].value == "Be plain."
    assert "shorter" in cells(page)
