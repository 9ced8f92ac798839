"""The Promote page where several experiments run."""

from __future__ import annotations

from tests.dashboard.fake_records import CHALLENGER, Records
from tests.dashboard.test_pages import OpenPage, texts


def test_a_decision_is_about_the_experiment_that_was_chosen(open_page: OpenPage, records: Records) -> None:
    other = {"id": "exp-2", "challenger": "lora-222222222222", "evidence_hash": "f" * 64}
    assert "Experiment" not in [one.label for one in open_page("promote").selectbox]
    records.others = [records.experiment | other]
    page = open_page("promote")
    assert page.selectbox(key="experiment").options == [CHALLENGER, "lora-222222222222"]
    page.selectbox(key="experiment").select("exp-2").run()
    assert "Challenger lora-222222222222" in texts(page)
    page.text_area("reason-decide").set_value("Worse")
    next(button for button in page.button if button.label == "Reject").click().run()
    assert records.received[-1][1]["experiment_id"] == "exp-2"
