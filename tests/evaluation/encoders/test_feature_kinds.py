"""An encoder's kind is read from its name."""

import pytest

from tools.evaluation.encoders.encoder import ENCODERS
from tools.evaluation.encoders.feature_kinds import FeatureKind, kind_of


@pytest.mark.parametrize(("name", "kind"), [
    ("classifier", FeatureKind.IN_DOMAIN), ("vae", FeatureKind.IN_DOMAIN), ("inception", FeatureKind.PUBLISHED),
    ("squeezenet1_1", FeatureKind.PUBLISHED), ("untrained_conv", FeatureKind.UNTRAINED),
])
def test_the_kind_of_an_encoder(name: str, kind: FeatureKind) -> None:
    assert kind_of(name) is kind


def test_only_networks_trained_on_the_users_images_are_in_domain() -> None:
    assert {name for name in ENCODERS if kind_of(name) is FeatureKind.IN_DOMAIN} == {"classifier", "vae"}
