"""What the networks behind features have seen, which decides what a distance between features may claim."""

from enum import Enum


class FeatureKind(Enum):
    """PUBLISHED: trained on other images and published. UNTRAINED: seeded random weights. IN_DOMAIN: trained on the user's
    own training images, and blind to whatever that training did not ask for."""

    PUBLISHED = "published"
    UNTRAINED = "untrained"
    IN_DOMAIN = "in-domain"


_IN_DOMAIN = ("classifier", "vae")
_OFFICIAL = ("FID", "KID", "p of KID")


def kind_of(name: str) -> FeatureKind:
    """The kind of features, by an encoder's name or a metric's: `KD[classifier@0123abcd,symmetric]`, `FID`."""
    encoder = name.rpartition("[")[2].split("@")[0].removesuffix("]")
    if encoder.startswith("untrained"):
        return FeatureKind.UNTRAINED
    return FeatureKind.IN_DOMAIN if encoder in _IN_DOMAIN else FeatureKind.PUBLISHED


def encoder_of(metric: str) -> str | None:
    """The encoder that a metric is about: `squeezenet1_1` in `KD[squeezenet1_1@0123abcd,imagenet-min224]`, `inception` in
    `KID`; None where no encoder is behind it."""
    if metric in _OFFICIAL or metric.endswith("[FID features]"):
        return "inception"
    encoder = metric.partition("[")[2].split("@")[0].removesuffix("]")
    return None if not encoder or encoder.startswith("pixels") or metric.startswith("condition") else encoder
