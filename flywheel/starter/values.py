"""Draws the value of a fact: a price, a phone number, a colour, a place to meet.

`draw(kind, random, notation)` gives the text as it stands in a passage. Every kind of value that `attributes.txt` names
is here. Numbers are written the way a context writes them (`Notation`), so that one help centre never mixes "12 €"
with "$12".
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from flywheel.starter.tables import pick, table


@dataclass(frozen=True)
class Notation:
    """How one help centre writes money and clock times."""

    money: str
    clock: str


def draw_notation(random: Random) -> Notation:
    """The notation of one context."""
    money = random.choice(["{} €", "{} €", "€{}", "${}", "{} euros", "{} EUR", "£{}", "{} dollars"])
    return Notation(money, random.choice(["24", "24", "24", "12"]))


def word(random: Random, syllables: int = 0) -> str:
    """An invented lower-case word of two or three syllables."""
    count = syllables or random.choice([2, 2, 3])
    end = random.choice(["", "", "n", "s", "l", "r", "m", "x"])
    return "".join(pick(random, table("syllables")) for _ in range(count)) + end


def amount(random: Random, low: int, high: int) -> int:
    """A whole number, small ones as likely as large ones."""
    top = random.choice([low + (high - low) // 20, low + (high - low) // 5, high])
    return random.randint(low, max(low + 1, top))


def money(random: Random, notation: Notation) -> str:
    """A price in the notation of its context."""
    cents = random.choice(["", "", "", f".{random.randint(1, 9)}0", ".50", f".{random.randint(10, 99)}"])
    return notation.money.format(f"{amount(random, 1, 900)}{cents}")


def clock(random: Random, notation: Notation, low: int = 5, high: int = 23) -> str:
    """A time of day: "9:30", "9 am"."""
    hour, minute = random.randint(low, high), random.choice([0, 0, 15, 30, 30, 45])
    if notation.clock == "24":
        return f"{hour}:{minute:02d}"
    half = "am" if hour < 12 else "pm"
    shown = (hour - 1) % 12 + 1
    return f"{shown} {half}" if minute == 0 else f"{shown}:{minute:02d} {half}"


def hours(random: Random, notation: Notation) -> str:
    """Opening hours: "9:30 to 18:00"."""
    return f"{clock(random, notation, 6, 12)} to {clock(random, notation, 13, 23)}"


def counted(random: Random, low: int, high: int, unit: str) -> str:
    """A count with its unit: "14 days"."""
    number = amount(random, low, high)
    return f"{number} {unit if number != 1 else unit.removesuffix('s')}"


def person(random: Random) -> str:
    """A full name."""
    last = pick(random, table("last")) if random.random() < 0.6 else word(random).capitalize()
    return f"{pick(random, table('first'))} {last}"


def spot(random: Random) -> str:
    """A place inside a town or building: "the north gate"."""
    place = f"the {pick(random, table('place_words'))} {pick(random, table('places'))}"
    return place if random.random() < 0.8 else f"{place} {random.randint(1, 12)}"


def phone(random: Random) -> str:
    """A telephone number in groups."""
    groups = random.choice([(3, 3), (4, 4), (3, 4), (2, 3, 3), (4, 3)])
    digits = ["".join(str(random.randint(0, 9)) for _ in range(size)) for size in groups]
    return random.choice([" ", " ", "-"]).join([*random.choice([[], ["0" + digits[0][:2]]]), *digits])


def several(random: Random, words: str, most: int = 3) -> str:
    """One to `most` words of a table joined with "and"."""
    count = random.choice([1, 1, 2, 2, most])
    chosen = random.sample(words.split("|"), count)
    return chosen[0] if count == 1 else f"{', '.join(chosen[:-1])} and {chosen[-1]}"


def code(random: Random) -> str:
    """A booking code such as "KT-482" or "B73"."""
    letters = "".join(random.choice("ABCDEFGHKLMNPRSTUVWXYZ") for _ in range(random.choice([1, 2, 2, 3])))
    digits = "".join(str(random.randint(0, 9)) for _ in range(random.choice([2, 3, 4])))
    return random.choice([f"{letters}-{digits}", f"{letters}{digits}", digits, f"{digits}{letters[0]}"])


def a_piece(random: Random, words: str) -> str:
    """A list of things with articles: "a towel and a helmet"."""
    parts = several(random, words)
    return parts if random.random() < 0.4 else f"a {parts}"


def email(random: Random, _: Notation) -> str:
    """An address such as "bookings@nevola.example"."""
    name = pick(random, table("first")).lower()
    user = random.choice(["info", "hello", "team", "help", "mail", "desk", "bookings", name])
    return f"{user}@{word(random)}.{pick(random, table('domains'))}"


def street(random: Random, _: Notation) -> str:
    """A street address, the number in front or behind."""
    name = f"{pick(random, table('streets'))} {pick(random, table('street_ends'))}"
    number = random.randint(1, 220)
    return f"{number} {name}" if random.random() < 0.7 else f"{name} {number}"


def website(random: Random) -> str:
    """A web address such as "www.nevola.shop/riko"."""
    start = random.choice(["", "www."])
    return f"{start}{word(random)}.{pick(random, table('domains'))}" + random.choice(["", "/" + word(random)])


def city(random: Random) -> str:
    """An invented town."""
    return pick(random, table("city_starts")) + pick(random, table("city_ends"))


def months(random: Random) -> str:
    """A season: "April to October"."""
    return f"{pick(random, table('months'))} to {pick(random, table('months'))}"


def duration(random: Random) -> str:
    """Minutes, hours, or both."""
    minutes = counted(random, 2, 18, "0 minutes").replace(" 0", "0")
    return random.choice([minutes, counted(random, 1, 30, "hours"), f"{random.randint(1, 4)} hours and {minutes}"])


def floor(random: Random) -> str:
    """A floor of a building."""
    return random.choice(["ground", "first", "second", "third", "fourth", "fifth", "sixth", "top", "lower"]) + " floor"


def ordinal(random: Random) -> str:
    """A day of the month: "3rd"."""
    day = random.randint(1, 28)
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day not in (11, 12, 13) else 0, "th")
    return f"{day}{ending}"


def date(random: Random) -> str:
    """A day of the year: "14 March" or "March 14"."""
    day, month = random.randint(1, 28), pick(random, table("months"))
    return f"{day} {month}" if random.random() < 0.7 else f"{month} {day}"


Draw = Callable[[Random, Notation], str]

KINDS: dict[str, Draw] = {
    "money": money,
    "time": clock,
    "hours": hours,
    "email": email,
    "street": street,
    "percent": lambda r, _: f"{amount(r, 2, 90)} {r.choice(['%', 'percent'])}",
    "days": lambda r, _: counted(r, 1, 60, r.choice(["days", "days", "days", "working days", "weeks"])),
    "years": lambda r, _: counted(r, 1, 15, "years"),
    "weekday": lambda r, _: pick(r, table("days")) + r.choice(["", "", "s"]),
    "duration": lambda r, _: duration(r),
    "date": lambda r, _: date(r),
    "months": lambda r, _: months(r),
    "months_n": lambda r, _: counted(r, 1, 36, r.choice(["months", "months", "weeks"])),
    "hours_n": lambda r, _: counted(r, 1, 72, r.choice(["hours", "minutes", "working days"])),
    "people": lambda r, _: counted(r, 2, 200, r.choice(["people", "guests", "persons"])),
    "age": lambda r, _: f"{r.randint(2, 21)} years" + r.choice(["", " old"]),
    "person": lambda r, _: person(r),
    "phone": lambda r, _: phone(r),
    "website": lambda r, _: website(r),
    "city": lambda r, _: city(r),
    "spot": lambda r, _: spot(r),
    "line": lambda r, _: f"{r.choice(['bus', 'tram', 'line', 'bus line'])} {r.randint(1, 299)}",
    "floor": lambda r, _: floor(r),
    "gear": lambda r, _: a_piece(r, table("gear")),
    "language": lambda r, _: several(r, table("languages")),
    "level": lambda r, _: pick(r, table("levels")),
    "dish": lambda r, _: several(r, table("dishes"), 2),
    "colour": lambda r, _: pick(r, table("colours")),
    "material": lambda r, _: several(r, table("materials"), 2),
    "weight": lambda r, _: f"{amount(r, 1, 400)}{r.choice(['', '', '.5'])} kg",
    "length": lambda r, _: f"{amount(r, 10, 900)} {r.choice(['cm', 'centimetres'])}",
    "area": lambda r, _: f"{amount(r, 8, 900)} square metres",
    "power": lambda r, _: f"{amount(r, 5, 3000)} watts",
    "speed": lambda r, _: f"{amount(r, 5, 160)} km/h",
    "distance": lambda r, _: f"{amount(r, 2, 400)} {r.choice(['km', 'kilometres'])}",
    "temp": lambda r, _: f"{r.choice([20, 30, 40, 60, 90, r.randint(15, 95)])} degrees",
    "decibel": lambda r, _: f"{amount(r, 20, 110)} decibels",
    "country": lambda r, _: pick(r, table("countries")),
    "storage": lambda r, _: f"{amount(r, 1, 999)} {r.choice(['GB', 'GB', 'TB'])}",
    "size": lambda r, _: f"{amount(r, 1, 999)} MB",
    "count": lambda r, _: str(amount(r, 1, 999)),
    "formats": lambda r, _: several(r, table("formats")) + r.choice(["", " files"]),
    "platform": lambda r, _: several(r, table("platforms")),
    "version": lambda r, _: f"{r.randint(1, 19)}.{r.randint(0, 19)}" + r.choice(["", f".{r.randint(0, 9)}"]),
    "code": lambda r, _: code(r),
    "word": lambda r, _: r.choice(
        [word(r).upper(), word(r).capitalize(), word(r), f"{word(r).capitalize()} {word(r)}"]
    ),
    "payment": lambda r, _: several(r, table("payments")),
    "monthday": lambda r, _: ordinal(r),
    "clothes": lambda r, _: pick(r, table("clothes")),
    "animal": lambda r, _: several(r, table("animals"), 2),
    "year": lambda r, _: str(r.randint(1850, 2025)),
    "company": lambda r, _: (
        f"{word(r).capitalize()} {r.choice(['Works', 'Group', 'Labs', 'and Sons', 'Partners', 'Studio'])}"
    ),
    "papers": lambda r, _: pick(r, table("papers")),
}


def draw(kind: str, random: Random, notation: Notation) -> str:
    """The text of a fresh value of a kind."""
    return KINDS[kind](random, notation)
