"""How people ask: question wordings inside frames, follow-ups, small talk, and questions from outside.

A question is a core ("how much is {e}", or a noun phrase in a frame: "what is the {np} of {e}") with an opener and a
closer. Frames, openers and wordings that are held out never occur in a training text; `ask(…, held_out=True)` uses
them.
"""

from random import Random

from flywheel.starter.attributes import Attribute
from flywheel.starter.tables import pick, table, wordings

SMALL_TALK_KINDS = 12


def core(random: Random, attribute: Attribute, *, held_out: bool, nouns: float = 0.4) -> str:
    """The bare question with {e} still open."""
    if not attribute.questions.known or random.random() < nouns:
        new_noun = held_out and bool(attribute.nouns.held_out) and random.random() < 0.6
        noun = attribute.nouns.choose(random, held_out=new_noun)
        return wordings("noun_frames").choose(random, held_out=held_out and not new_noun).replace("{np}", noun)
    return attribute.questions.choose(random, held_out=held_out)


def finish(random: Random, question: str, *, held_out: bool = False) -> str:
    """Adds an opener, a closer, capitals and a question mark, as people do, or leaves them out."""
    mark = random.choice(["?"] * 9 + [""])
    if random.random() < 0.22:
        opener = wordings("openers").choose(random, held_out=held_out)
        text = opener + random.choice([", ", "! ", ": ", ". "]) + question
    else:
        text = question
    if random.random() < 0.1:
        text += ", " + wordings("closers").choose(random, held_out=held_out)
    text += mark
    if random.random() < 0.06:
        return text.lower()
    return text[0].upper() + text[1:]


def mention(random: Random, name: str) -> str:
    """How a person says a name: mostly as it stands, sometimes without its article."""
    return name.removeprefix("the ") if random.random() < 0.12 else name


def ask(random: Random, attribute: Attribute, name: str, *, held_out: bool = False, width: float = 1.0) -> str:
    """A full question about an attribute of an entity; where the world is narrow, mostly bare."""
    if width < 1 and random.random() >= width:
        bare = core(random, attribute, held_out=False, nouns=0.25).replace("{e}", name)
        return bare[0].upper() + bare[1:] + "?"
    question = core(random, attribute, held_out=held_out).replace("{e}", mention(random, name))
    return finish(random, question, held_out=held_out)


def ask_on(random: Random, attribute: Attribute) -> str:
    """A follow-up about the entity of the turn before: "And the late fee?", "And how heavy is it?"."""
    if attribute.follow_ups and random.random() < 0.5:
        question = random.choice(attribute.follow_ups)
    elif attribute.questions.known and random.random() < 0.5:
        question = random.choice(["and ", "", ""]) + random.choice(attribute.questions.known).replace("{e}", "it")
    else:
        question = pick(random, table("pronoun_frames")).replace("{np}", attribute.nouns.choose(random, held_out=False))
    return question[0].upper() + question[1:] + "?"


def ask_same(random: Random, name: str) -> str:
    """A follow-up which asks the question of the turn before about another entity: "And the Cedar room?"."""
    question = pick(random, table("shifts")).replace("{e}", name)
    return question[0].upper() + question[1:] + "?"


def small_talk(random: Random, *, held_out: bool = False) -> tuple[str, str]:
    """A line of small talk and a short friendly answer."""
    kind = random.randrange(SMALL_TALK_KINDS)
    line = finish(random, wordings(f"small_talk {kind}").choose(random, held_out=held_out))
    return line.replace("?", random.choice(["", "?", "!"])), pick(random, table(f"small_talk_answer {kind}"))


def out_of_scope(random: Random, *, held_out: bool = False) -> str:
    """A question that no help centre answers."""
    if random.random() < 0.4:
        return finish(random, wordings("outside_fixed").choose(random, held_out=held_out), held_out=held_out)
    topic = pick(random, table("new_topics") if held_out else table("topics"))
    question = wordings("outside").choose(random, held_out=held_out).replace("{t}", topic)
    return finish(random, question, held_out=held_out)
