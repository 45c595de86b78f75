"""What an evaluation answers, aspect by aspect, and how an answer can turn out."""

from enum import Enum


class Aspect(Enum):
    """The questions of every summary, in the order in which they are answered."""

    FIDELITY = "fidelity"
    VARIETY = "variety"
    CLASS = "class"
    PRIVACY = "privacy"
    UTILITY = "utility"


class Tone(Enum):
    """How an aspect turned out. STUDIED: a separate study answers, in its own words."""

    HOLDS = "holds"
    CAUTION = "caution"
    FAILS = "fails"
    UNKNOWN = "not tested"
    STUDIED = "studied"
