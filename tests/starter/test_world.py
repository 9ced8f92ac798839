import re
from random import Random

import pytest

from flywheel.starter import lessons
from flywheel.starter.attributes import attributes
from flywheel.starter.scenes import Twist, draw_probe, draw_scene
from flywheel.starter.tables import table, wordings
from flywheel.starter.values import KINDS, draw, draw_notation
from flywheel.starter.world import NEW_SYLLABLES, draw_name

ROWS = 800


@pytest.fixture(scope="module")
def training_text() -> str:
    """What a run would read, in part."""
    random = Random(11)
    rows = [make(random) for _ in range(ROWS) for make in (lessons.mixed, lessons.many_questions)]
    return "\n".join(turn.content for row in rows for turn in row)


def test_same_seed_draws_the_same_rows() -> None:
    first, second = Random(5), Random(5)
    assert [lessons.mixed(first) for _ in range(50)] == [lessons.mixed(second) for _ in range(50)]


def test_held_out_names_never_stand_in_training_text(training_text: str) -> None:
    words = set(re.findall(r"\w+", training_text))
    assert not words & {*table("new_names").split("|"), *table("sample_names").split("|")}


def test_held_out_names_are_what_a_new_entity_is_called() -> None:
    random = Random(9)
    for _ in range(100):
        name = draw_name(random, held_out=True)
        assert name.split()[0] in table("new_names").split("|") or name.split()[0].endswith(NEW_SYLLABLES)


def test_held_out_questions_never_stand_in_training_text(training_text: str) -> None:
    text = training_text.lower()
    for attribute in attributes():
        known = " / ".join([*attribute.questions.known, *wordings("noun_frames").known]).lower()
        for question in attribute.questions.held_out:
            for part in question.lower().split("{e}"):
                if len(part.split()) >= 5 and part.strip() not in known:
                    assert part.strip() not in text, question


def test_held_out_frames_never_stand_in_training_text(training_text: str) -> None:
    for start in ("I would like to hear the", "does anybody know the", "let me know the", "can someone say what"):
        assert any(frame.lower().startswith(start.lower()) for frame in wordings("noun_frames").held_out)
        assert start.lower() not in training_text.lower()


def test_held_out_attributes_are_never_asked_in_training(training_text: str) -> None:
    text = training_text.lower()
    for attribute in attributes():
        if attribute.held_out:
            assert attribute.nouns.known[0].lower() not in text, attribute.key


def test_there_are_enough_attributes_and_wordings() -> None:
    known = [attribute for attribute in attributes() if not attribute.held_out]
    assert len(known) >= 60
    assert sum(len(attribute.questions.known) for attribute in known) >= 250
    assert all(attribute.questions.held_out and attribute.nouns.held_out for attribute in known)


def test_every_value_kind_draws_text() -> None:
    random = Random(1)
    for kind in KINDS:
        assert draw(kind, random, draw_notation(random)).strip()


def test_the_asked_fact_stands_in_exactly_the_cited_passage() -> None:
    random = Random(2)
    for _ in range(200):
        probe = draw_probe(random)
        line = next(
            line for line in probe.messages[0]["content"].splitlines() if line.startswith(f"[{probe.citation}]")
        )
        assert probe.expected.lower() in line.lower()


def test_unanswerable_scene_states_the_fact_nowhere() -> None:
    random = Random(3)
    for _ in range(200):
        scene = draw_scene(random, answerable=False)
        assert all((f.entity, f.attribute) != (scene.family[0], scene.attribute) for f in scene.facts())


def test_twisted_probe_uses_new_names_or_attributes() -> None:
    random = Random(4)
    for _ in range(50):
        scene = draw_scene(random, twist=Twist(new_attribute=True))
        assert scene.attribute.held_out


def test_prompts_stay_short() -> None:
    random = Random(6)
    words = [sum(len(m["content"].split()) for m in draw_probe(random).messages) for _ in range(300)]
    assert max(words) < 200
