"""Sentences in which someone gives something to someone else: templates, names, and how such a sentence is read.

The form is that of Wang et al. 2023, "Interpretability in the Wild" (arXiv 2211.00593), also of the data set of Sutter
et al. 2025 (arXiv 2507.08802). The sentences here are our own.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

FRAMES = (
    "As {first} and {second} reached the {place}, {subject} handed a {object} to {answer}",
    "At the {place}, {first} sat beside {second}. {subject} offered a {object} to {answer}",
    "Because {first} and {second} shared a locker at the {place}, {subject} lent a {object} to {answer}",
    "Before {first} and {second} left the {place}, {subject} sold a {object} to {answer}",
    "During the break {first} and {second} waited near the {place}. {subject} showed a {object} to {answer}",
    "In front of the {place}, {first} ran into {second}, and {subject} returned a {object} to {answer}",
    "It was late when {first} and {second} found the {place}. {subject} passed a {object} to {answer}",
    "Last week {first} and {second} cleaned the {place}, and {subject} brought a {object} to {answer}",
    "Since {first} and {second} met at the {place}, {subject} has promised a {object} to {answer}",
    "The guide took {first} and {second} to the {place}. {subject} threw a {object} to {answer}",
    "The rain kept {first} and {second} inside the {place}, so {subject} read about a {object} to {answer}",
    "Though {first} and {second} had never seen the {place}, {subject} described a {object} to {answer}",
    "Until {first} and {second} came to the {place}, {subject} had not shown the {object} to {answer}",
    "With {first} and {second} alone at the {place}, {subject} gave the {object} to {answer}",
    "Years after {first} and {second} built the {place}, {subject} mailed a {object} to {answer}",
)
"""Sentences with two names; ``subject`` is one of them, ``answer`` the other."""


def _templates(subject: str) -> tuple[str, ...]:
    """Returns templates with {A}, the answer, and {B}, who is named twice: as the ``first`` or the ``second``."""
    names = {"first": "{B}", "second": "{A}"} if subject == "first" else {"first": "{A}", "second": "{B}"}
    return tuple(
        frame.format(**names, subject="{B}", answer="{A}", place="{place}", object="{object}") for frame in FRAMES
    )


BABA = _templates("first")
"""15 templates in which the first name is repeated."""
ABBA = _templates("second")
"""15 templates in which the second name is repeated."""

NAMES = (
    "Adam", "Alan", "Albert", "Alex", "Alice", "Amy", "Andrew", "Anna", "Anthony", "Arthur",
    "Barbara", "Ben", "Bill", "Brian", "Bruce", "Carl", "Carol", "Charles", "Chris", "Claire",
    "Daniel", "David", "Dean", "Diana", "Donald", "Edward", "Ellen", "Emily", "Emma", "Eric",
    "Frank", "Fred", "Gary", "George", "Grace", "Graham", "Greg", "Harry", "Helen", "Henry",
    "Ian", "Jack", "James", "Jane", "Jason", "Jean", "Jim", "John", "Joseph", "Julia",
    "Karen", "Kate", "Keith", "Kelly", "Kevin", "Laura", "Lee", "Linda", "Louis", "Lucy",
    "Maria", "Mark", "Martin", "Mary", "Matt", "Michael", "Mike", "Neil", "Nick", "Oliver",
    "Patrick", "Paul", "Peter", "Philip", "Rachel", "Ralph", "Ray", "Richard", "Robert", "Roger",
    "Rose", "Ruth", "Ryan", "Sam", "Sarah", "Scott", "Simon", "Stephen", "Steve", "Susan",
    "Ted", "Thomas", "Tim", "Tom", "Tony", "Victor", "Victoria", "Walter", "William", "Zoe",
)  # fmt: skip
PLACES = (
    "airport", "bakery", "bridge", "cabin", "canal", "castle", "chapel", "cinema", "clinic", "farm",
    "garden", "harbor", "hotel", "kitchen", "mill", "office", "palace", "station", "studio", "tower",
)  # fmt: skip
OBJECTS = (
    "basket", "book", "bottle", "camera", "candle", "coat", "drum", "fan", "guitar", "hammer",
    "jacket", "kite", "ladder", "lamp", "map", "necklace", "pencil", "radio", "ring", "violin",
)  # fmt: skip


class Names(NamedTuple):
    """What a sentence says.

    Attributes:
        prompt: The sentence without its last word and the space before it.
        first: The name that comes first.
        second: The other one.
        second_repeats: Whether the second name is repeated, so that the first one is the answer (ABBA).
    """

    prompt: str
    first: str
    second: str
    second_repeats: bool

    @property
    def answer(self) -> str:
        """The name that ends the sentence."""
        return self.first if self.second_repeats else self.second

    @property
    def other(self) -> str:
        """The name that is repeated."""
        return self.second if self.second_repeats else self.first


def read_sentence(text: str) -> Names | None:
    """Returns what a sentence that ends with the answer says; ``None`` if it is not of that form.

    Of the other words one is a name that is repeated: it starts with a capital letter and occurs twice or more. The
    answer occurs once more.
    """
    prompt, _, answer = text.strip().rstrip(".").rpartition(" ")
    words = re.findall(r"[^\W\d_][\w\u0300-\u036f'’-]*", prompt)  # an accent may be a character of its own
    counts = Counter(word for word in words if word[0].isupper())
    repeated = [word for word, count in counts.items() if count > 1 and word != answer]
    if counts[answer] != 1 or len(repeated) != 1 or not prompt:
        return None
    places = [words.index(name) for name in (answer, repeated[0])]
    first, second = (answer, repeated[0]) if places[0] < places[1] else (repeated[0], answer)
    return Names(prompt, first, second, places[0] < places[1])
