"""Words of others go through Markdown widgets only with every meaning taken out of them."""

from __future__ import annotations

import pytest

from dashboard.charts import difference_chart, e_value_chart
from dashboard.plain import moment, plain
from dashboard.samples import sample_rows
from tests.dashboard.fake_records import interaction, looks


def test_every_markdown_character_is_escaped() -> None:
    assert plain("![x](http) *b* <i> :red[a] $1") == r"\!\[x\]\(http\) \*b\* \<i\> \:red\[a\] \$1"


def test_text_becomes_one_line_so_that_no_block_can_start() -> None:
    assert plain("fine\n\n# not a heading\n- nor a list") == r"fine \# not a heading \- nor a list"


@pytest.mark.parametrize("text", ["http://a.example", "www.a.example", "a@b.example", ":material/delete:", ":smile:"])
def test_what_would_become_a_link_or_icon_later_is_parted(text: str) -> None:
    assert "\u2060" in plain(text)


def test_times_are_read_as_the_api_writes_them() -> None:
    assert moment("2026-11-20T09:05:00+00:00") == moment("2026-11-20T09:05:00Z") == "2026-11-20 09:05 UTC"


def test_samples_prefer_a_question_that_both_arms_answered() -> None:
    champion = interaction("chatcmpl-1", "When do you open?", "At nine.", arm="champion")
    other = interaction("chatcmpl-2", "Where are you?", "Here.", arm="challenger")
    challenger = interaction("chatcmpl-3", "when do you OPEN?", "At 9.", arm="challenger")
    assert sample_rows([champion, other, challenger]) == [{"champion": champion, "challenger": challenger}]  # type: ignore[list-item]


def test_samples_are_the_newest_of_each_arm_when_no_question_is_shared() -> None:
    champion = interaction("chatcmpl-1", "When do you open?", "At nine.", arm="champion")
    assert sample_rows([champion]) == [{"champion": champion}]  # type: ignore[list-item]


def test_charts_draw_zero_line_and_threshold() -> None:
    assert '"value": 0.0' in difference_chart(looks()).to_json()
    drawn = e_value_chart(looks(), alpha=0.02).to_dict()
    assert {row["value"] for rows in drawn["datasets"].values() for row in rows if "value" in row} == {1.0, 50.0}
