"""Lines of text of the kinds that people have read by machine: invoices, letters, signs, tables."""

import numpy as np

_TEXT = """
the of and to in for on with from this that order payment received please station garden weather account number window
morning library between several question answer history journey kitchen mountain silver october december wednesday
saturday customer delivery address street avenue office floor building department service manager report chapter
figure section material length quality standard temperature pressure voltage battery charge warning caution entrance
exit parking ticket platform arrival departure flight passenger luggage reservation breakfast coffee orange butter
cheese chicken vegetable pepper sugar flour bakery market price discount total balance interest invoice receipt
signature contract agreement insurance policy medical hospital patient doctor university student lecture science
biology chemistry physics mathematics equation language grammar dictionary computer keyboard network software version
update download password security project schedule meeting agenda quick brown jumps lazy zebra vexed fjord sphinx
quartz judge vow jigsaw oxygen puzzle rhythm waltz
"""
WORDS = tuple(_TEXT.split())
CITIES = (
    "London",
    "Paris",
    "Berlin",
    "Madrid",
    "Vienna",
    "Zurich",
    "Oslo",
    "Quebec",
    "Jakarta",
    "Kyoto",
    "Boston",
    "Lima",
)
MONTHS = ("January", "March", "April", "June", "July", "August", "October", "November")


def line(random: np.random.Generator) -> str:
    """One line, 3 to about 45 characters."""
    makers = (_phrase, _phrase, _phrase, _title, _date, _price, _address, _code, _contact)
    return makers[int(random.integers(len(makers)))](random)


def _pick(random: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(random.integers(len(options)))]


def _phrase(random: np.random.Generator) -> str:
    words = [_pick(random, WORDS) for _ in range(int(random.integers(1, 7)))]
    return (" ".join(words)).capitalize() + _pick(random, ("", "", ".", ","))


def _title(random: np.random.Generator) -> str:
    words = [_pick(random, WORDS) for _ in range(int(random.integers(1, 4)))]
    return " ".join(words).upper() if random.random() < 0.5 else " ".join(words).title()


def _date(random: np.random.Generator) -> str:
    day, year = int(random.integers(1, 29)), int(random.integers(1950, 2040))
    return f"{day} {_pick(random, MONTHS)} {year}" if random.random() < 0.5 else f"{year}-{day % 12 + 1:02}-{day:02}"


def _price(random: np.random.Generator) -> str:
    currency = _pick(random, ("EUR", "USD", "GBP", "CHF"))
    return f"{_pick(random, WORDS).capitalize()}: {random.uniform(1, 9999):,.2f} {currency}"


def _address(random: np.random.Generator) -> str:
    return f"{random.integers(1, 400)} {_pick(random, WORDS).capitalize()} Street, {_pick(random, CITIES)}"


def _code(random: np.random.Generator) -> str:
    # No O and no I: a line of capitals does not tell them from 0 and 1.
    letters = "".join(_pick(random, tuple("ABCDEFGHJKLMNPQRSTUVWXYZ")) for _ in range(int(random.integers(2, 5))))
    return f"No. {letters}-{random.integers(100, 1_000_000)}"


def _contact(random: np.random.Generator) -> str:
    if random.random() < 0.5:
        return f"{_pick(random, WORDS)}.{_pick(random, WORDS)}@example.com"
    return f"Tel. {random.integers(100, 999)} {random.integers(1000, 9999)} {random.integers(10, 99)}"
