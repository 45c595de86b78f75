"""What the networks behind features have seen, which decides what a distance between features may claim."""

from enum import Enum


class FeatureKind(Enum):
    """PUBLISHED: trained on other images and published. UNTRAINED: seeded random weights. IN_DOMAIN: trained on the user's
    own training images, and blind to whatever that training did not ask for."""

    PUBLISHED = "published"
    UNTRAINED = "untrained"
    IN_DOMAIN = "in-domain"


_IN_DOMAIN = ("classifier", "vae")


def kind_of(name: str) -> FeatureKind:
    """The kind of features, by their encoder's name."""
    if name.startswith("untrained"):
        return FeatureKind.UNTRAINED
    return FeatureKind.IN_DOMAIN if name in _IN_DOMAIN else FeatureKind.PUBLISHED
