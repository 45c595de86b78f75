"""An encoder's kind is read from its name and from any metric that bears its name."""

import pytest

from tools.evaluation.encoders.encoder import ENCODERS
from tools.evaluation.encoders.feature_kinds import FeatureKind, encoder_of, kind_of


@pytest.mark.parametrize(("name", "kind"), [
    ("classifier", FeatureKind.IN_DOMAIN), ("KD[classifier@0123abcd,symmetric]", FeatureKind.IN_DOMAIN),
    ("precision[vae@0123abcd,grid8]", FeatureKind.IN_DOMAIN), ("FID", FeatureKind.PUBLISHED), ("KID", FeatureKind.PUBLISHED),
    ("coverage[FID features]", FeatureKind.PUBLISHED), ("FD[squeezenet1_1@0123abcd,imagenet-min224]", FeatureKind.PUBLISHED),
    ("untrained_conv", FeatureKind.UNTRAINED), ("two-sample AUC[untrained_conv@0123abcd,native]", FeatureKind.UNTRAINED),
])
def test_the_kind_of_names_and_metrics(name: str, kind: FeatureKind) -> None:
    assert kind_of(name) is kind


@pytest.mark.parametrize(("metric", "encoder"), [
    ("FID", "inception"), ("KID", "inception"), ("p of KID", "inception"), ("coverage[FID features]", "inception"),
    ("KD[squeezenet1_1@0123abcd,imagenet-min224]", "squeezenet1_1"), ("p of KD[vae@0123abcd,grid8]", "vae"),
    ("near-copies[untrained_conv@0123abcd,native]", "untrained_conv"), ("near-copies[pixels at 16 px]", None),
    ("class AUC", None), ("condition AUC[FOCAL_PLANE]", None), ("SSIM", None),
])
def test_the_encoder_of_a_metric(metric: str, encoder: str | None) -> None:
    assert encoder_of(metric) == encoder


def test_only_networks_trained_on_the_users_images_are_in_domain() -> None:
    assert {name for name in ENCODERS if kind_of(name) is FeatureKind.IN_DOMAIN} == {"classifier", "vae"}
