from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine, update
from sqlmodel import Session, col, select

from flywheel.audit import AuditEntry
from flywheel.database import new_id, now, reading, writing
from flywheel.errors import ConflictError, NotFoundError, UserError
from flywheel.pairs import (
    Candidate,
    Judgment,
    PreferencePair,
    add_corrected,
    add_pairs,
    decided_pairs,
    judge,
    latest_pairs,
    lease_next,
    pair_counts,
    preference_pair,
    rated_answers,
)
from tests.made_records import made_interaction, made_pair, made_rating


def candidate(completion_id: str, text: str) -> Candidate:
    return Candidate(id=new_id("cand"), completion_id=completion_id, text=text, created_at=now())


def waiting_pairs(session: Session, count: int) -> list[str]:
    return [made_pair(session, made_interaction(session)).id for _ in range(count)]


def test_low_rated_takes_the_newest_rating_and_leaves_out_what_has_candidates(database: Engine) -> None:
    with writing(database) as session:
        changed_up = made_interaction(session)
        made_rating(session, changed_up, False)
        made_rating(session, changed_up, True)
        changed_down = made_interaction(session)
        made_rating(session, changed_down, True)
        made_rating(session, changed_down, 2)
        paired = made_interaction(session)
        made_rating(session, paired, False)
        made_pair(session, paired)
        failed = made_interaction(session, status="failed")
        made_rating(session, failed, False)
        found = rated_answers(session, tenant="default", below=0.5, limit=10)
    assert [row.id for row in found] == [changed_down.id]


def test_candidates_that_repeat_an_answer_make_no_pair(database: Engine) -> None:
    with writing(database) as session:
        row = made_interaction(session, answer="Open the settings.")
        texts = ["Open the settings. ", "Ask us.", "Ask us.", ""]
        pairs = add_pairs(session, row, candidates=[candidate(row.id, text) for text in texts])
        assert len(session.exec(select(Candidate)).all()) == 4
    assert [{pair.a, pair.b} for pair in pairs] == [{"Open the settings.", "Ask us."}]


def test_the_given_answer_stands_on_either_side_about_equally_often(database: Engine) -> None:
    with writing(database) as session:
        row = made_interaction(session)
        made = add_pairs(session, row, candidates=[candidate(row.id, f"Answer {n}") for n in range(200)])
    assert 60 < sum(pair.a == row.answer for pair in made) < 140
    assert all((pair.a_candidate is None) == (pair.a == row.answer) for pair in made)


def test_a_correction_and_the_choice_it_corrects_are_a_waiting_pair_of_its_tenant(database: Engine) -> None:
    with writing(database) as session:
        row = made_interaction(session, tenant="acme")
        second = candidate(row.id, "Ask us.")
        second.choice = 1
        session.add(second)
        pairs = [add_corrected(session, row, choice=choice, text="Ask Olga.") for choice in (0, 1)]
        added = session.exec(select(Candidate).where(Candidate.text == "Ask Olga.").order_by(col(Candidate.id))).all()
    told = [(pair.tenant, pair.state, pair.prompt == row.prompt) for pair in pairs if pair]
    assert told == [("acme", "waiting", True)] * 2
    assert [(one.tenant, one.choice) for one in added] == [("acme", None)] * 2
    assert [{pair.a: pair.a_candidate, pair.b: pair.b_candidate} for pair in pairs if pair] == [
        {"Open the settings.": None, "Ask Olga.": added[0].id},
        {"Ask us.": second.id, "Ask Olga.": added[1].id},
    ]


@pytest.mark.parametrize(
    ("values", "choice", "text"),
    [
        ({"status": "failed"}, 0, "Ask Olga."),
        ({"answer": None}, 0, "Ask Olga."),
        ({}, 0, "Open the settings. "),
        ({}, 1, "Ask Olga."),  # a tool call, say: it has no words, and those of choice 0 are not its own
    ],
)
def test_a_correction_of_what_has_no_words_or_the_same_ones_makes_no_pair(
    database: Engine, values: dict[str, str | None], choice: int, text: str
) -> None:
    with writing(database) as session:
        assert add_corrected(session, made_interaction(session, **values), choice=choice, text=text) is None
        assert not session.exec(select(Candidate)).all()


def test_two_reviewers_are_given_different_pairs(database: Engine) -> None:
    with writing(database) as session:
        first, second = waiting_pairs(session, 2)
    for reviewer, expected in (("rita", first), ("rob", second), ("ray", None)):
        with writing(database) as session:
            pair = lease_next(session, tenant="default", reviewer=reviewer)
            assert (pair.id if pair else None) == expected


def test_a_reviewer_who_asks_again_gets_the_pair_they_hold(database: Engine) -> None:
    with writing(database) as session:
        waiting_pairs(session, 3)
    seen = []
    for _ in range(2):
        with writing(database) as session:
            pair = lease_next(session, tenant="default", reviewer="rita")
            assert pair is not None
            seen.append(pair.id)
    assert seen[0] == seen[1]


def test_a_pair_whose_lease_ran_out_goes_to_somebody_else(database: Engine) -> None:
    with writing(database) as session:
        [only] = waiting_pairs(session, 1)
    with writing(database) as session:
        lease_next(session, tenant="default", reviewer="rita")
    with writing(database) as session:
        session.execute(update(PreferencePair).values(leased_until=now() - timedelta(seconds=1)))
    with writing(database) as session:
        pair = lease_next(session, tenant="default", reviewer="rob")
        assert pair is not None
        assert (pair.id, pair.leased_by) == (only, "rob")


def test_the_first_verdict_with_a_winner_decides_and_later_ones_are_kept(database: Engine) -> None:
    with writing(database) as session:
        pair = made_pair(session, made_interaction(session))
        judge(session, pair, reviewer="rita", verdict="b")
        judge(session, pair, reviewer="rob", verdict="a", source="rule", reason="shorter")
    with reading(database) as session:
        found = preference_pair(session, pair.id, tenant="default")
        assert (found.state, found.chosen) == ("decided", "b")
        assert len(session.exec(select(Judgment)).all()) == 2
        assert [one.id for one in decided_pairs(session, tenant="default")] == [pair.id]


@pytest.mark.parametrize("verdict", ["tie", "neither"])
def test_a_verdict_without_a_winner_drops_the_pair(database: Engine, verdict: str) -> None:
    with writing(database) as session:
        pair = made_pair(session, made_interaction(session))
        judge(session, pair, reviewer="rita", verdict=verdict)
    with reading(database) as session:
        assert pair_counts(session, tenant="default") == {"waiting": 0, "decided": 0, "dropped": 1}
        assert [row.id for row in latest_pairs(session, tenant="default", state="dropped")] == [pair.id]


def test_the_same_verdict_again_changes_nothing_and_another_is_refused(database: Engine) -> None:
    with writing(database) as session:
        pair = made_pair(session, made_interaction(session))
        first = judge(session, pair, reviewer="rita", verdict="a")
    with writing(database) as session:
        again = judge(session, session.get_one(PreferencePair, pair.id), reviewer="rita", verdict="a")
        assert again.id == first.id
        acts = session.exec(select(AuditEntry.act).where(col(AuditEntry.act) == "judge")).all()
        assert len(acts) == 1
    with writing(database) as session, pytest.raises(ConflictError, match="already judged"):
        judge(session, session.get_one(PreferencePair, pair.id), reviewer="rita", verdict="b")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"verdict": "c", "reviewer": "rita"}, "verdict is one of"),
        ({"verdict": "a", "reviewer": " "}, "reviewer's name"),
        ({"verdict": "a", "reviewer": "rita", "source": "model"}, "person or rule"),
    ],
)
def test_judgment_that_cannot_be_read_is_refused(database: Engine, values: dict[str, str], words: str) -> None:
    with writing(database) as session, pytest.raises(UserError, match=words):
        judge(session, made_pair(session, made_interaction(session)), **values)


def test_pair_of_another_tenant_is_neither_found_nor_leased(database: Engine) -> None:
    with writing(database) as session:
        pair = made_pair(session, made_interaction(session, tenant="acme"))
        with pytest.raises(NotFoundError):
            preference_pair(session, pair.id, tenant="default")
        assert lease_next(session, tenant="default", reviewer="rita") is None
