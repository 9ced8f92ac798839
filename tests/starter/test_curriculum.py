from random import Random

import pytest
import torch

from flywheel.starter import lessons
from flywheel.starter.attributes import attributes
from flywheel.starter.tables import table, wordings
from flywheel.starter.world import draw_attribute, draw_family
from retrain.starter.copying import binding_row, copying_row
from retrain.starter.curriculum import Batch, Course, collate
from retrain.starter.initial import starter_config, starter_weights
from retrain.starter.learning import (
    CHOOSING_HEADS,
    COPYING_HEADS,
    optimizers,
    pointing_loss,
    train_step,
    turns_right,
)
from retrain.starter.muon import orthogonal
from retrain.starter.row import Row, add

NO_PLACES = torch.full((2, 5), -1)


def test_narrow_world_has_few_wordings_and_plain_names() -> None:
    random = Random(1)
    for entity in draw_family(random, 4, width=0.0):
        assert entity.name.split()[1] in table("names").split("|")
    attribute = draw_attribute(random, "plan", width=0.0)
    assert (len(attribute.questions.known), len(attribute.nouns.known), len(attribute.statements)) == (2, 1, 1)


def test_narrow_questions_have_no_openers() -> None:
    random = Random(2)
    openers = tuple(opener.capitalize() + mark for opener in wordings("openers").known for mark in ",!:.")
    rows = [lessons.many_questions(random, width=0.0) for _ in range(200)]
    assert not [turn for row in rows for turn in row if turn.role == "user" and turn.content.startswith(openers)]


def test_full_width_is_the_whole_world() -> None:
    first, second = Random(3), Random(3)
    assert lessons.many_questions(first) == lessons.many_questions(second, width=1.0)
    assert all(attribute.narrowed(1.0) is attribute for attribute in attributes())


def test_course_goes_forward_through_its_phases() -> None:
    course = Course()
    course.advance(share=0.01, loss=2.0, right=0.0)
    assert course.phase == "copying"
    course.advance(share=0.02, loss=0.5, right=0.0)
    assert course.phase == "binding"
    course.advance(share=0.2, loss=1.5, right=0.0)
    assert course.phase == "facts"
    course.advance(share=0.3, loss=1.0, right=0.5)
    assert course.width == 0.0
    course.advance(share=0.3, loss=0.2, right=0.65)
    assert 0 < course.width < 0.05
    course.advance(share=0.61, loss=0.2, right=0.2)
    assert course.phase == "mixed"


def test_course_widens_anyway_once_half_of_the_time_has_passed() -> None:
    course = Course("facts")
    for _ in range(40):
        course.advance(share=0.45, loss=0.5, right=0.1)
    assert course.width == 1.0


def test_random_rows_mark_only_what_was_said_before() -> None:
    random = Random(4)
    for make in (copying_row, binding_row):
        for _ in range(50):
            row = make(random)
            assert len({len(row.tokens), len(row.learnt), len(row.source), len(row.anchor)}) == 1
            assert not row.learnt[0]
            seen: set[int] = set()
            for token, flag in zip(row.tokens, row.learnt, strict=True):
                assert not flag or token in seen
                seen.add(token)


def test_turns_right_counts_whole_turns() -> None:
    learnt = torch.tensor([[False, True, True, False, True], [False, False, True, False, False]])
    batch = Batch(torch.zeros(2, 5, dtype=torch.long), learnt, NO_PLACES, NO_PLACES)
    assert turns_right(batch, torch.tensor([True, False, True, True])) == pytest.approx(2 / 3)


def test_pointing_loss_is_zero_only_where_heads_look_at_what_they_shall() -> None:
    source, anchor = torch.tensor([[-1, -1, -1, 1]]), torch.tensor([[-1, -1, -1, 2]])
    attentions = [torch.zeros(1, 4, 4, 4) for _ in range(3)]
    for heads, place in ((CHOOSING_HEADS, 2), (COPYING_HEADS, 1)):
        for layer, head in heads:
            attentions[layer][0, head, 2, place] = 1.0
    assert float(pointing_loss(attentions, source, anchor)) == pytest.approx(0, abs=1e-5)
    assert float(pointing_loss(attentions, source, torch.where(anchor == 2, 1, anchor))) > 10
    assert float(pointing_loss(attentions, torch.where(source == 1, 0, source), anchor)) > 10


def test_row_points_at_the_quoted_sentence_and_not_at_its_twin() -> None:
    row = Row([], [], [], [])
    add(row, [5, 6, 9, 7, 40, 5, 6, 9, 8, 41, 0])
    add(row, [60, 8, 2], learnt=True, quoted=[5, 6, 9, 8])
    add(row, [5, 6, 9, 7, 2], learnt=True, quoted=[5, 6, 9, 7])
    assert row.source[11:] == [-1, 8, -1, 0, 1, 2, 3, -1]
    assert row.anchor[11:] == [9, 9, 9, 4, 4, 4, 4, 4]


def test_row_ignores_a_sentence_that_it_does_not_hold() -> None:
    row = Row([], [], [], [])
    add(row, [5, 6])
    add(row, [7, 8], learnt=True, quoted=[7, 8])
    assert row.source == row.anchor == [-1] * 4


def test_steps_on_one_batch_learn_it_and_move_every_weight() -> None:
    starter = starter_weights(starter_config(layers=3, hidden=128, feed_forward=64, heads=4), seed=0)
    starter.set_attn_implementation("eager")
    before = {name: weight.clone() for name, weight in starter.named_parameters()}
    batch = collate([copying_row(Random(place)) for place in range(4)])
    tools = optimizers(starter)
    steps = [train_step(starter, tools, batch, 1.0) for _ in range(12)]
    assert steps[-1].answers < steps[0].answers
    assert steps[-1].pointing < steps[0].pointing
    assert all(not torch.equal(before[name], weight) for name, weight in starter.named_parameters())


def test_muon_makes_matrices_nearly_orthogonal() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(2, 24, 16)))
    assert values.min() > 0.5
    assert values.max() < 1.5
