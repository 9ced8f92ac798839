"""What a prompt is drawn from: a few passages, and the fact that is asked for; and prompts for evaluation.

A `Probe` is a prompt that training never shows, with the value that a right answer holds. `Twist` says what of it is
held out of training altogether: the wording, the names, the attribute.
"""

from dataclasses import dataclass
from random import Random

from flywheel.starter import phrasing
from flywheel.starter.attributes import Attribute
from flywheel.starter.prompt import Message, knowledge_system
from flywheel.starter.world import Entity, Fact, Passage, draw_attribute, draw_facts, draw_family, draw_passages


@dataclass(frozen=True)
class Probe:
    """A prompt with what a right answer holds: for evaluation. `expected` is empty where nothing answers it."""

    messages: list[Message]
    expected: str
    citation: int


@dataclass(frozen=True)
class Scene:
    """A drawn context: who it is about, the passages, and the facts in them. `target` is None where nothing answers."""

    family: list[Entity]
    attribute: Attribute
    passages: list[Passage]
    target: Fact | None

    def system(self) -> str:
        """The knowledge system message."""
        return knowledge_system([(p.title, p.section, p.text) for p in self.passages])

    def facts(self) -> list[Fact]:
        """Every fact in the passages."""
        return [fact for passage in self.passages for fact in passage.facts]


@dataclass(frozen=True)
class Twist:
    """What of a prompt is held out of training."""

    new_phrasing: bool = False
    new_entity: bool = False
    new_attribute: bool = False


NO_TWIST = Twist()


def draw_scene(
    random: Random,
    *,
    count: int = 0,
    answerable: bool = True,
    rich: bool = False,
    twist: Twist = NO_TWIST,
    width: float = 1.0,
) -> Scene:
    """A context of `count` (or one to three) passages. Not answerable: the target is taken out before writing."""
    while True:
        family = draw_family(random, random.choice([1, 2, 2, 3, 3, 4]), held_out=twist.new_entity, width=width)
        composed = 0.0 if twist.new_attribute else 0.25
        attribute = draw_attribute(random, family[0].kind, held_out=twist.new_attribute, composed=composed, width=width)
        if attribute.held_out != twist.new_attribute:
            continue
        wanted = count or random.choice([1, 2, 3, 3, 3, 3, 3, 3])
        size = random.randint(max(2, wanted), wanted * (3 if rich else 2)) + (not answerable)
        facts = draw_facts(random, family, attribute, size, width=width)
        wanted = min(wanted, len(facts) - (not answerable))
        if wanted < 1 or (count and wanted < count):
            continue
        passages = draw_passages(random, facts if answerable else facts[1:], wanted)
        found = [f for p in passages for f in p.facts if f.entity == family[0] and f.attribute == attribute]
        if bool(found) == answerable:
            return Scene(family, attribute, passages, found[0] if found else None)


def draw_probe(random: Random, *, answerable: bool = True, twist: Twist = NO_TWIST) -> Probe:
    """A prompt with three passages and one question."""
    scene = draw_scene(random, count=3, answerable=answerable, twist=twist)
    question = phrasing.ask(random, scene.attribute, scene.family[0].name, held_out=twist.new_phrasing)
    messages: list[Message] = [{"role": "system", "content": scene.system()}, {"role": "user", "content": question}]
    if scene.target is None:
        return Probe(messages, "", 0)
    number = next(n for n, passage in enumerate(scene.passages, 1) if scene.target in passage.facts)
    return Probe(messages, scene.target.value, number)
