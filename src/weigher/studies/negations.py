"""Forty hand-made sentences with a negation and their plain twins, by how many words lie from the negation to its word.

A window of 3, 5, 9 or 17 words reaches 1, 2, 4 or 8 words to either side, so that each group is just within reach of
one of them. Each pair holds (plain twin, negated, the word that negates, the word it turns around).
"""

from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    """A sentence, and the same with a negation, which means the opposite."""

    plain: str
    negated: str
    negation: str
    turned: str
    plain_is_positive: bool


_POSITIVE = {
    1: (
        ("This film is good.", "This film is not good.", "not", "good"),
        ("The story is interesting.", "The story is not interesting.", "not", "interesting"),
        ("It was funny.", "It was not funny.", "not", "funny"),
        ("A movie worth watching.", "A movie not worth watching.", "not", "worth"),
        ("I enjoyed the acting.", "I never enjoyed the acting.", "never", "enjoyed"),
    ),
    2: (
        ("This is a good movie.", "This is not a good movie.", "not", "good"),
        ("It is a great story.", "It is not a great story.", "not", "great"),
        ("It was very funny.", "It was not very funny.", "not", "funny"),
        ("She is really convincing.", "She is not really convincing.", "not", "convincing"),
        ("It is an excellent thriller.", "It is not an excellent thriller.", "not", "excellent"),
    ),
    4: (
        ("This is what I call good.", "This is not what I call good.", "not", "good"),
        ("I think it was funny.", "I do not think it was funny.", "not", "funny"),
        ("I believe this is brilliant.", "I do not believe this is brilliant.", "not", "brilliant"),
        ("I found the story moving.", "I never found the story moving.", "never", "moving"),
        ("You can say this is great.", "You can not say this is great.", "not", "great"),
    ),
    8: (
        (
            "I can see why so many people find this good.",
            "I can not see why so many people find this good.",
            "not",
            "good",
        ),
        (
            "I understand how anybody sane could call it great.",
            "I do not understand how anybody sane could call it great.",
            "not",
            "great",
        ),
        (
            "There is every reason for me to call this film brilliant.",
            "There is no reason for me to call this film brilliant.",
            "no",
            "brilliant",
        ),
        (
            "I agree with those who say this is wonderful.",
            "I do not agree with those who say this is wonderful.",
            "not",
            "wonderful",
        ),
        (
            "This was one of the films that I really enjoyed.",
            "This was not one of the films that I really enjoyed.",
            "not",
            "enjoyed",
        ),
    ),
}

_NEGATIVE = {
    1: (
        ("The plot is bad.", "The plot is not bad.", "not", "bad"),
        ("It was boring.", "It was not boring.", "not", "boring"),
        ("The effects are terrible.", "The effects are not terrible.", "not", "terrible"),
        ("I was disappointed.", "I was not disappointed.", "not", "disappointed"),
        ("The jokes are stupid.", "The jokes are not stupid.", "not", "stupid"),
    ),
    2: (
        ("It is a bad movie.", "It is not a bad movie.", "not", "bad"),
        ("This was a waste of time.", "This was not a waste of time.", "not", "waste"),
        ("The film is too slow.", "The film is not too slow.", "not", "slow"),
        ("It gets dull.", "It never gets dull.", "never", "dull"),
        ("There is a weak scene in it.", "There is not a weak scene in it.", "not", "weak"),
    ),
    4: (
        ("I think it was boring.", "I do not think it was boring.", "not", "boring"),
        ("I found the story dull.", "I never found the story dull.", "never", "dull"),
        ("You can say this is bad.", "You can not say this is bad.", "not", "bad"),
        ("I believe this is awful.", "I do not believe this is awful.", "not", "awful"),
        ("This is what I call terrible.", "This is not what I call terrible.", "not", "terrible"),
    ),
    8: (
        (
            "I can see why so many people find this boring.",
            "I can not see why so many people find this boring.",
            "not",
            "boring",
        ),
        (
            "I agree with those who say this is awful.",
            "I do not agree with those who say this is awful.",
            "not",
            "awful",
        ),
        (
            "I understand how anybody sane could call it terrible.",
            "I do not understand how anybody sane could call it terrible.",
            "not",
            "terrible",
        ),
        (
            "There is every reason for me to call this film bad.",
            "There is no reason for me to call this film bad.",
            "no",
            "bad",
        ),
        (
            "This was one of the films that I really hated.",
            "This was not one of the films that I really hated.",
            "not",
            "hated",
        ),
    ),
}

PAIRS: dict[int, tuple[Pair, ...]] = {
    distance: (
        *(Pair(*pair, plain_is_positive=True) for pair in _POSITIVE[distance]),
        *(Pair(*pair, plain_is_positive=False) for pair in _NEGATIVE[distance]),
    )
    for distance in _POSITIVE
}
"""Ten pairs, half of whose plain twins are positive, for each distance in words."""
