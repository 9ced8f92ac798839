"""Rows of random tokens: where the starter learns to copy and to look up before it reads a word.

`repeat_row` and `lookup_row` need induction only. `binding_row` is a help centre without language: a fact binds two
things, an entity and an attribute, to a value; a question names both, in any order, and its answer is the value.
"""

from random import Random

from retrain.starter.row import Row, add
from retrain.starter.tokenizer import VOCABULARY

FIRST_WORD_TOKEN = 259
OPENING, CLOSING = 1, 2
Words = list[int]


def noise(random: Random, low: int, high: int) -> Words:
    """`low` to `high` random word tokens."""
    return random.choices(range(FIRST_WORD_TOKEN, VOCABULARY), k=random.randint(low, high))


def repeat_row(random: Random) -> Row:
    """Random words, then the same words again: only the second time is learnt."""
    row = Row([], [], [], [])
    words = noise(random, 12, 90)
    again = words[random.randrange(len(words) // 2) :]
    add(row, [*words, again[0]])
    add(row, again[1:], learnt=True, quoted=again[1:])
    return row


def lookup_row(random: Random) -> Row:
    """Keys with values, then the keys again in another order: their values are learnt."""
    row = Row([], [], [], [])
    keys = random.sample(range(FIRST_WORD_TOKEN, VOCABULARY), random.randint(5, 24))
    pairs = [(key, noise(random, 1, 4)) for key in keys]
    for key, told in pairs:
        add(row, [key, *told])
    for key, told in random.sample(pairs, len(pairs)):
        add(row, [key])
        add(row, told, learnt=True, quoted=told)
    return row


def copying_row(random: Random) -> Row:
    """A row of the first phase."""
    return repeat_row(random) if random.random() < 0.5 else lookup_row(random)


def random_facts(random: Random) -> list[tuple[Words, Words, Words, Words]]:
    """Facts (entity, attribute, value, sentence). Entities share attributes, and sentences share their layout."""
    entities = [noise(random, 1, 3) for _ in range(random.randint(2, 4))]
    attributes = [noise(random, 1, 2) for _ in range(random.randint(2, 4))]
    layouts = [(noise(random, 0, 2), noise(random, 0, 2), noise(random, 0, 2)) for _ in range(2)]
    grid = [(entity, attribute) for entity in entities for attribute in attributes]
    end = noise(random, 1, 1)
    facts = []
    for entity, attribute in random.sample(grid, random.randint(2, min(8, len(grid)))):
        before, between, after = random.choice(layouts)
        first, second = random.choice([(entity, attribute), (attribute, entity)])
        value = noise(random, 1, 3)
        facts.append((entity, attribute, value, [*before, *first, *between, *second, *after, *value, *end]))
    return facts


def binding_row(random: Random) -> Row:
    """Facts, then a question and its answer for each: the value, or after a mark the whole sentence."""
    facts = random_facts(random)
    row = Row([], [], [], [])
    add(row, [OPENING, *(token for fact in facts for token in fact[3]), CLOSING])
    for entity, attribute, value, sentence in random.sample(facts, len(facts)):
        whole = random.random() < 0.4
        first, second = random.choice([(entity, attribute), (attribute, entity)])
        question = [OPENING, *([CLOSING] if whole else []), *noise(random, 0, 2), *first, *noise(random, 0, 1), *second]
        add(row, [*question, CLOSING, OPENING])
        add(row, [*(sentence if whole else value), CLOSING], learnt=True, quoted=sentence[:-1])
    return row
