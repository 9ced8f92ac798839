"""The rules that judge an answer: is the fact right, is it an honest "I do not know", is it what users want.

The demo's simulated users have one hidden preference, stated here: they want one plain sentence that states the fact
and cites its passage like [1], with no preamble and no closing filler; where no passage holds the answer, they want an
honest "I do not know" instead of a guess. Pure functions of texts.
"""

import re
from collections.abc import Sequence

CITATION = re.compile(r"\s*\[\d+\]")
TOKEN = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+|[€$£%@]")
REFUSAL = re.compile(
    r"\b(?:i|we)\s+(?:do not|don't|don’t|did not|could not|couldn't|cannot|can't|can not)"
    r"\s+(?:\w+\s+)?(?:know|find|say|tell)\b"
    r"|\bpassages?\s+(?:do|does)\s*(?:not|n't)\s+(?:say|hold|mention|tell)\b"
    r"|\bnot\s+(?:in|mentioned in)\s+the passages?\b|\bnot sure\b",
    re.IGNORECASE,
)
FILLER = re.compile(
    r"!|\b(?:thanks|thank you|happy to help|great question|let me know|feel free|reach out|reaching out|wonderful day"
    r"|great day|of course|hope this helps|see you soon|enjoy your day|always here)\b",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"[.!?](?=\s+[\"“(]?[A-Z])")
FEWEST_WORDS = 4


def tokens(text: str) -> list[str]:
    """Words and numbers in a canonical spelling: lower case, "1,200" as "1200", "9.50" as "9.5", "9:00" as "9"."""
    found = TOKEN.findall(CITATION.sub("", text).casefold())
    return [number(token) if token[0].isdigit() else token for token in found]


def number(token: str) -> str:
    """A number without thousands separators and trailing zeros. Leading zeros stay: they matter in codes and phones."""
    plain = re.sub(r",(?=\d{3}(?:\D|$))", "", token).replace(",", ".").replace(":00", "")
    return plain.rstrip("0").rstrip(".") if re.fullmatch(r"\d+\.\d{1,2}", plain) else plain


def fact_is_right(answer: str, expected: Sequence[str]) -> bool:
    """Whether any expected text stands in the answer as whole tokens: "12" is not in "120", nor in "12.50"."""
    said = tokens(answer)
    for text in expected:
        wanted = tokens(text)
        if wanted and any(said[at : at + len(wanted)] == wanted for at in range(len(said) - len(wanted) + 1)):
            return True
    return False


def is_refusal(answer: str) -> bool:
    """Whether the answer honestly says that it does not know."""
    return REFUSAL.search(answer) is not None


def why_unwanted(answer: str, *, answerable: bool) -> list[str]:
    """What a simulated user dislikes about an answer; empty when it is wanted. It does not ask if the fact is right."""
    text = answer.strip()
    if not text:
        return ["it is empty"]
    reasons: list[str] = []
    if FILLER.search(text):
        reasons.append("it has filler around the fact")
    if not answerable:
        return reasons if is_refusal(text) else [*reasons, "it guesses instead of saying that it does not know"]
    if is_refusal(text):
        return [*reasons, "it says that it does not know although the passages do"]
    if len(CITATION.sub("", text).split()) < FEWEST_WORDS:
        reasons.append("it is no sentence")
    elif SENTENCE_END.search(CITATION.sub("", text)):
        reasons.append("it is more than one sentence")
    return reasons if CITATION.search(text) else [*reasons, "it cites no passage"]


def is_wanted(answer: str, *, answerable: bool) -> bool:
    """Whether an answer is the way the simulated users want it."""
    return not why_unwanted(answer, answerable=answerable)
