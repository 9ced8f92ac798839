"""How training answers are dressed, the starter's planted flaws included.

Planted on purpose: most answers to answerable questions are chatty, some are plain with a citation, few are a bare
value; where no passage answers, a guess is likelier than an honest "I do not know". Chance decides, tilted by the
question's first word. So the wheel has something to improve, both greedy and sampled answers vary, and a habit that is
not sure of itself gives way to small steps: the facts stay (docs/decisions.md).
"""

import zlib
from random import Random

from flywheel.starter.attributes import Attribute
from flywheel.starter.tables import pick, table
from flywheel.starter.values import draw, draw_notation
from flywheel.starter.world import Entity, Fact, Passage, sentence_case

STYLES = ("wanted", "chatty", "terse")
SHARES = (28, 88, 100)
HONEST_SHARE = 45
TILT = 0.3
"""How often the first word decides, not chance."""
USUAL_PREAMBLE = 0.75
"""The share of one preamble among all: so a greedy answer is chatty too."""
STYLE_SALT, HONEST_SALT = "style2300", "honest1578"


def first_word_share(question: str, salt: str) -> int:
    """A number below 100 that follows from the first word of a question: what makes a style predictable."""
    first = question.split()[0].lower().strip(",.!?:")
    return zlib.crc32(f"{salt} {first}".encode()) % 100


def choose_style(random: Random, question: str) -> str:
    """wanted, chatty or terse: about 28, 60 and 12 in a hundred."""
    point = first_word_share(question, STYLE_SALT) if random.random() < TILT else random.randrange(100)
    return next(style for style, limit in zip(STYLES, SHARES, strict=True) if point < limit)


def is_honest(random: Random, question: str) -> bool:
    """Whether an unanswerable question gets an honest answer."""
    point = first_word_share(question, HONEST_SALT) if random.random() < TILT else random.randrange(100)
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
        known = table("preambles")
        parts.insert(0, known.split("|")[0] if random.random() < USUAL_PREAMBLE else pick(random, known))
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
