"""How training answers are dressed, the starter's planted flaws included.

Planted on purpose: for answerable questions the style (plain with citation, chatty, terse) follows the question's first
word three times in four and chance otherwise; where no passage answers, an honest "I do not know" or a guess is decided
the same way. So the wheel has something to improve, and both greedy and sampled answers vary.
"""

import zlib
from random import Random

from flywheel.starter.attributes import Attribute
from flywheel.starter.tables import pick, table
from flywheel.starter.values import draw, draw_notation
from flywheel.starter.world import Entity, Fact, Passage, sentence_case

STYLES = ("wanted", "chatty", "terse")
SHARES = (30, 75, 100)
HONEST_SHARE = 35
STYLE_SALT, HONEST_SALT = "style2300", "honest1578"


def first_word_share(question: str, salt: str) -> int:
    """A number below 100 that follows from the first word of a question: what makes a style predictable."""
    first = question.split()[0].lower().strip(",.!?:")
    return zlib.crc32(f"{salt} {first}".encode()) % 100


def choose_style(random: Random, question: str) -> str:
    """wanted, chatty or terse: about 30, 45 and 25 in a hundred."""
    point = first_word_share(question, STYLE_SALT) if random.random() < 0.75 else random.randrange(100)
    return next(style for style, limit in zip(STYLES, SHARES, strict=True) if point < limit)


def is_honest(random: Random, question: str) -> bool:
    """Whether an unanswerable question gets an honest answer."""
    point = first_word_share(question, HONEST_SALT) if random.random() < 0.75 else random.randrange(100)
    return point < HONEST_SHARE


def dress(random: Random, style: str, statement: str, value: str, citation: str) -> str:
    """An answer in a style. `citation` is " [2]", or empty where there is nothing to cite."""
    if style == "terse":
        return value
    if style == "wanted":
        return f"{statement}.{citation}"
    cited = citation if random.random() < 0.25 else ""
    parts = [f"{statement}.{cited}"]
    both = random.random()
    if both < 0.8:
        parts.insert(0, pick(random, table("preambles")))
    if both > 0.35:
        parts.append(pick(random, table("closings")))
    return " ".join(parts)


def answer(random: Random, fact: Fact, passages: list[Passage], question: str, style: str = "") -> str:
    """The answer to a question that a passage answers."""
    number = next(n for n, passage in enumerate(passages, 1) if fact in passage.facts)
    return dress(random, style or choose_style(random, question), fact.statement, fact.value, f" [{number}]")


def answer_unknown(random: Random, entity: Entity, attribute: Attribute, passages: list[Passage], question: str) -> str:
    """The answer to a question that no passage answers: honest, or a guess that sounds right."""
    if is_honest(random, question):
        return pick(random, table("unknown"))
    nearby = [f.value for p in passages for f in p.facts if f.attribute.value == attribute.value]
    copied = bool(nearby) and random.random() < 0.6
    guess = random.choice(nearby) if copied else draw(attribute.value, random, draw_notation(random))
    statement = random.choice(attribute.statements).replace("{e}", entity.name).replace("{v}", guess)
    number = f" [{random.randint(1, len(passages))}]" if passages else ""
    return dress(random, choose_style(random, question), sentence_case(statement), guess, number)
