"""Help centres that never existed: entities, their facts, and the passages that state them.

Everything is drawn from one `random.Random`, so a seed decides a whole help centre. Names and values are drawn anew for
every context: nothing about them can be remembered, only read. Names built from the table `new_names` or from the
syllables in `NEW_SYLLABLES` are held out of training; so is the table `sample_names`, which the sample help centre
uses.

`width` (0 to 1) narrows a world to few attributes, wordings and names; training starts narrow. Names widen first.
"""

from dataclasses import dataclass, replace
from random import Random

from flywheel.starter.attributes import Attribute, attributes_of, compose, rivals
from flywheel.starter.tables import pick, table
from flywheel.starter.values import Notation, draw, draw_notation, word

KIND_NAMES = "plan place thing course tour room service event software vehicle pass food"
ENTITY_KINDS = tuple(KIND_NAMES.split())
NAMES_FIRST = 2.5
NEW_SYLLABLES = ("blu", "qui", "sny", "the", "wu", "xo", "gle", "phi")


@dataclass(frozen=True)
class Entity:
    """Something a help centre talks about. `name` is how a sentence says it: "the Maple plan"."""

    kind: str
    name: str

    @property
    def title(self) -> str:
        """The name as a heading: "Maple plan"."""
        bare = self.name.removeprefix("the ")
        return bare[0].upper() + bare[1:]


@dataclass(frozen=True)
class Fact:
    """One attribute of one entity with its value, and the sentence (no final stop) that states it."""

    entity: Entity
    attribute: Attribute
    value: str
    statement: str


@dataclass(frozen=True)
class Passage:
    """A short section of a document, and the facts that its text states."""

    title: str
    section: str
    text: str
    facts: tuple[Fact, ...]


def sentence_case(text: str) -> str:
    """First letter upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


def draw_name(random: Random, *, held_out: bool) -> str:
    """A proper name: a word, an invented word, or both."""
    if held_out:
        first = (
            pick(random, table("new_names"))
            if random.random() < 0.5
            else word(random, 2).capitalize() + random.choice(NEW_SYLLABLES)
        )
        return first if random.random() < 0.7 else f"{first} {pick(random, table('new_names'))}"
    first = pick(random, table("names")) if random.random() < 0.4 else word(random).capitalize()
    roll = random.random()
    if roll < 0.72:
        return first
    if roll < 0.88:
        return f"{first} {pick(random, table('names'))}"
    return f"{first} {random.randint(2, 99)}"


def draw_entity(random: Random, kind: str, *, held_out: bool = False, noun: str = "", width: float = 1.0) -> Entity:
    """An entity of a kind, named in one of four ways; where the world is narrow, mostly in one."""
    noun = noun or pick(random, table(f"nouns {kind}"))
    names = min(1.0, width * NAMES_FIRST)
    if width < 1 and random.random() >= (width + names) / 2:
        name = draw_name(random, held_out=False) if random.random() < names else pick(random, table("names"))
        return Entity(kind, f"the {name} {noun}")
    roll = random.random()
    if roll < 0.2 and not held_out:
        plain = pick(random, table(f"plain {kind}"))
        return Entity(kind, f"the {plain} {noun}")
    name = draw_name(random, held_out=held_out)
    if roll < 0.3:
        return Entity(kind, name)
    return Entity(kind, f"{name} {noun}" if roll < 0.4 else f"the {name} {noun}")


def draw_family(random: Random, size: int, *, held_out: bool = False, width: float = 1.0) -> list[Entity]:
    """Entities that stand in one context: mostly of one kind, often with the same noun, names all different."""
    kind = random.choice(ENTITY_KINDS)
    noun = pick(random, table(f"nouns {kind}")) if random.random() < 0.6 else ""
    family: dict[str, Entity] = {}
    while len(family) < size:
        other = kind if random.random() < 0.8 else random.choice(ENTITY_KINDS)
        entity = draw_entity(random, other, held_out=held_out, noun=noun if other == kind else "", width=width)
        if not any(entity.title in name or name in entity.title for name in family):
            family[entity.title] = entity
    return list(family.values())


def state(random: Random, entity: Entity, attribute: Attribute, notation: Notation) -> Fact:
    """A fresh fact."""
    value = draw(attribute.value, random, notation)
    sentence = random.choice(attribute.statements).replace("{e}", entity.name).replace("{v}", value)
    return Fact(entity, attribute, value, sentence)


def draw_attribute(
    random: Random, kind: str, *, held_out: bool = False, composed: float = 0.3, width: float = 1.0
) -> Attribute:
    """Something to say about a kind of entity."""
    possible = attributes_of(kind, held_out=held_out)
    if not possible or random.random() < composed * max(0.0, width - 0.3) / 0.7:
        return compose(random, held_out=held_out)
    few = max(4, round(len(possible) * max(width, 0.25)))
    return random.choice(possible[:few]).narrowed(width)


def draw_facts(
    random: Random, family: list[Entity], target: Attribute, count: int, *, width: float = 1.0
) -> list[Fact]:
    """`count` facts about a family. The first states the target of the first entity; many others share either."""
    notation = draw_notation(random)
    facts = [state(random, family[0], target, notation)]
    taken = {(family[0].name, target.key)}
    for _ in range(count * 4):
        if len(facts) >= count:
            break
        entity = family[0] if random.random() < 0.4 else random.choice(family)
        same = random.random() < 0.45 and (target.key.count(" ") > 0 or entity.kind in target.entities)
        attribute = target if same else draw_attribute(random, entity.kind, width=width)
        blocked = (entity.name, attribute.key) in taken or any(
            (entity.name, key) in taken for key in rivals(attribute.key)
        )
        values = {fact.value for fact in facts}
        fact = state(random, entity, attribute, notation)
        if not blocked and fact.value not in values:
            facts.append(fact)
            taken.add((entity.name, attribute.key))
    return facts


def heading(random: Random, facts: list[Fact]) -> tuple[str, str]:
    """Document title and section: entity and topic, topic and entity, or the kind of thing and the entity."""
    first = facts[0]
    topic = sentence_case(random.choice(first.attribute.nouns.known))
    alone = len({fact.entity.name for fact in facts}) == 1
    noun = sentence_case(pick(random, table(f"nouns {first.entity.kind}")))
    group = noun + random.choice(["s", "s", " overview", " guide"])
    general = random.choice(["Overview", "Good to know", "At a glance", "Details", "Questions", "About us", topic])
    if not alone:
        return random.choice([(group, topic), (topic, "Overview"), (group, general), ("Help", topic)])
    name = first.entity.title
    return random.choice([(name, topic), (name, topic), (group, name), (topic, name), (name, general), (group, topic)])


def write_passage(random: Random, facts: list[Fact]) -> Passage:
    """A passage that states some facts in one to three sentences. A later sentence may say "it" for the same entity."""
    title, section = heading(random, facts)
    sentences: list[tuple[str, list[Fact]]] = []
    for place, fact in enumerate(facts):
        statement, name = fact.statement, fact.entity.name
        same = place > 0 and facts[place - 1].entity == fact.entity
        if statement.startswith(name) and (same or fact.entity.title in (title, section)):
            short, roll = "it" + statement.removeprefix(name), random.random()
            if same and len(sentences[-1][1]) == 1 and roll < 0.12:
                sentences[-1] = (f"{sentences[-1][0]} and {short}", [*sentences[-1][1], fact])
                continue
            statement = short if roll > 0.8 else statement
        sentences.append((statement, [fact]))
    if len(sentences) < 3 and random.random() < 0.2:
        sentences.insert(random.choice([0, len(sentences)]), (pick(random, table("filler")), []))
    text = " ".join(f"{sentence_case(sentence)}." for sentence, _ in sentences)
    stated = tuple(replace(fact, statement=sentence_case(said)) for said, told in sentences for fact in told)
    return Passage(title, section, text, stated)


def draw_passages(random: Random, facts: list[Fact], count: int) -> list[Passage]:
    """`count` passages in any order which together state the facts, grouped by entity, by attribute, or at will."""
    facts = facts[:]
    random.shuffle(facts)
    how = random.random()
    if how < 0.45:
        facts.sort(key=lambda fact: fact.entity.name)
    elif how < 0.7:
        facts.sort(key=lambda fact: fact.attribute.key)
    cuts = sorted(random.sample(range(1, len(facts)), count - 1)) if len(facts) >= count > 1 else []
    groups = [facts[start:end] for start, end in zip([0, *cuts], [*cuts, len(facts)], strict=True)]
    passages = [write_passage(random, group[:3]) for group in groups]
    random.shuffle(passages)
    return passages
