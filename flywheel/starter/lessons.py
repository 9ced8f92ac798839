"""Training rows: conversations whose assistant turns show what the starter base model shall do.

A row is a list of turns; each turn says whether its words are learnt. `mixed` has everything in the shares of the last
phase; `many_questions` asks a lot about few passages. How an answer is dressed stands in `flaws.py`.
"""

from dataclasses import dataclass
from random import Random

from flywheel.starter import phrasing
from flywheel.starter.attributes import rivals
from flywheel.starter.flaws import STYLE_SALT, answer, answer_unknown, first_word_share
from flywheel.starter.prompt import ANSWER, DECLINE, SMALL_TALK
from flywheel.starter.scenes import Scene, draw_scene
from flywheel.starter.tables import pick, table
from flywheel.starter.world import Fact, draw_attribute, draw_family


@dataclass(frozen=True)
class Turn:
    """A message, and whether its words count in the loss (assistant turns only).

    `quoted` is the sentence of a passage that the message relies on, as it stands there; empty where there is none.
    """

    role: str
    content: str
    learnt: bool = False
    quoted: str = ""


def earlier_turns(random: Random, scene: Scene, count: int) -> list[Turn]:
    """Turns before the last question. Their facts come from other passages, so their answers are not learnt."""
    turns: list[Turn] = []
    for _ in range(count):
        attribute = draw_attribute(random, scene.family[0].kind)
        entity = random.choice(scene.family)
        question = phrasing.ask(random, attribute, entity.name)
        said = answer_unknown(random, entity, attribute, scene.passages, question)
        turns += [Turn("user", question), Turn("assistant", said)]
    return turns


def follow(random: Random, scene: Scene) -> tuple[list[Turn], str]:
    """An earlier exchange and a last question that can only be understood from it."""
    entity, attribute = scene.family[0], scene.attribute
    if random.random() < 0.5 and len(scene.family) > 1 and entity.kind == scene.family[1].kind:
        earlier, other, question = attribute, scene.family[1], phrasing.ask_same(random, entity.name)
    else:
        earlier, other, question = draw_attribute(random, entity.kind), entity, phrasing.ask_on(random, attribute)
    first = phrasing.ask(random, earlier, other.name)
    known = [fact for fact in scene.facts() if fact.entity == other and fact.attribute == earlier]
    if known:
        said = answer(random, known[0], scene.passages, first)
    else:
        said = answer_unknown(random, other, earlier, scene.passages, first)
    quoted = known[0].statement if known else ""
    return [Turn("user", first), Turn("assistant", said, learnt=bool(known), quoted=quoted)], question


def knowledge(random: Random) -> list[Turn]:
    """A row of the knowledge route: 75 of 100 answerable, one in five with earlier turns."""
    answerable = random.random() < 0.75
    scene = draw_scene(random, answerable=answerable, rich=random.random() < 0.4)
    turns, roll = [Turn("system", scene.system())], random.random()
    question = phrasing.ask(random, scene.attribute, scene.family[0].name)
    if roll < 0.14:
        before, question = follow(random, scene)
        turns += before
    elif roll < 0.2:
        turns += earlier_turns(random, scene, random.choice([1, 1, 2]))
    if scene.target:
        turns += exchange(random, scene, scene.target, question)
    else:
        text = answer_unknown(random, scene.family[0], scene.attribute, scene.passages, question)
        turns += [Turn("user", question), Turn("assistant", text, learnt=True)]
    return [*turns, *more_turns(random, scene)] if random.random() < 0.65 else turns


def exchange(random: Random, scene: Scene, fact: Fact, question: str, style: str = "") -> list[Turn]:
    """A question and its learnt answer from the passages."""
    said = answer(random, fact, scene.passages, question, style)
    return [Turn("user", question), Turn("assistant", said, learnt=True, quoted=fact.statement)]


def unknown(random: Random, scene: Scene) -> list[Turn]:
    """A question that the passages do not answer, about something in them, and its learnt answer."""
    while True:
        entity = random.choice(scene.family)
        attribute = draw_attribute(random, entity.kind)
        near = {attribute.key} | rivals(attribute.key)
        if not any(fact.entity == entity and fact.attribute.key in near for fact in scene.facts()):
            break
    question = phrasing.ask(random, attribute, entity.name)
    said = answer_unknown(random, entity, attribute, scene.passages, question)
    return [Turn("user", question), Turn("assistant", said, learnt=True)]


def more_turns(random: Random, scene: Scene) -> list[Turn]:
    """Further questions about the same passages, each answered and learnt."""
    turns: list[Turn] = []
    for fact in random.sample(scene.facts(), min(len(scene.facts()), random.choice([1, 2, 3, 4]))):
        question = phrasing.ask(random, fact.attribute, fact.entity.name)
        turns += exchange(random, scene, fact, question)
        turns += unknown(random, scene) if random.random() < 0.2 else []
    return turns


def many_questions(random: Random, *, passages: int = 0, width: float = 1.0, flawed: bool = False) -> list[Turn]:
    """Passages and up to eight questions, answered by the bare value or the plain sentence: where copying is learnt.

    `flawed` answers are dressed as everywhere else; the others' style can be told from the question.
    """
    scene = draw_scene(random, count=passages, rich=True, width=width)
    turns = [Turn("system", scene.system())]
    facts = scene.facts() * 2
    for fact in random.sample(facts, min(len(facts), 8)):
        question = phrasing.ask(random, fact.attribute, fact.entity.name, width=width)
        plain = "terse" if first_word_share(question, STYLE_SALT) >= 50 else "wanted"
        style = "" if flawed else plain
        turns += exchange(random, scene, fact, question, style)
    return turns


def small_talk(random: Random) -> list[Turn]:
    """A row of the small talk route, sometimes of two exchanges, sometimes with another or no system message."""
    system = random.choice([SMALL_TALK] * 7 + ["", "You are a help desk.", "Be kind and brief."])
    turns = [Turn("system", system)] if system else []
    for _ in range(random.choice([1, 1, 1, 2])):
        line, reply = phrasing.small_talk(random)
        turns += [Turn("user", line), Turn("assistant", reply, learnt=True)]
    return turns


def decline(random: Random) -> list[Turn]:
    """A row of the refuse route: a short polite decline, sometimes after small talk."""
    turns = [Turn("system", DECLINE)]
    if random.random() < 0.2:
        line, reply = phrasing.small_talk(random)
        turns += [Turn("user", line), Turn("assistant", reply)]
    question = phrasing.out_of_scope(random)
    return [*turns, Turn("user", question), Turn("assistant", pick(random, table("declines")), learnt=True)]


def without_passages(random: Random) -> list[Turn]:
    """A help centre question with no passages or a free system message: honest, or a guess."""
    system = random.choice(["", "", ANSWER, "You are a help desk.", "Answer briefly.", "Help the guest."])
    entity = draw_family(random, 1)[0]
    attribute = draw_attribute(random, entity.kind)
    question = phrasing.ask(random, attribute, entity.name)
    turns = [Turn("system", system)] if system else []
    said = answer_unknown(random, entity, attribute, [], question)
    return [*turns, Turn("user", question), Turn("assistant", said, learnt=True)]


def mixed(random: Random) -> list[Turn]:
    """A row of the last phase: mostly knowledge, with some of everything else."""
    roll = random.random()
    if roll < 0.87:
        return knowledge(random)
    if roll < 0.92:
        return small_talk(random)
    return decline(random) if roll < 0.97 else without_passages(random)
