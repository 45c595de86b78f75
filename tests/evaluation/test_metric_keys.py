"""A metric's name is written and parsed in one place, and every name of a file comes back as it was."""

import pytest

from tools.evaluation.metric_keys import CLASS_AUC, OFFICIAL, Family, MetricKey, parse_metric

SPACE = "squeezenet1_1@0123abcd,imagenet-min224"


@pytest.mark.parametrize(("name", "key"), [
    ("FID", MetricKey(Family.FRECHET, OFFICIAL)), ("KID", MetricKey(Family.KERNEL, OFFICIAL)),
    ("p of KID", MetricKey(Family.KERNEL_P, OFFICIAL)), ("coverage[FID features]", MetricKey(Family.COVERAGE, OFFICIAL)),
    (f"KD[{SPACE}]", MetricKey(Family.KERNEL, SPACE)), (f"p of KD[{SPACE}]", MetricKey(Family.KERNEL_P, SPACE)),
    (f"two-sample AUC[{SPACE}]", MetricKey(Family.TWO_SAMPLE, SPACE)),
    ("FD[inception]", MetricKey(Family.FRECHET, "inception")),
    ("near-copies[pixels at 16 px]", MetricKey(Family.NEAR_COPIES, "pixels at 16 px")),
    ("SSIM", MetricKey(Family.SSIM)), ("LPIPS", MetricKey(Family.PERCEPTUAL, "LPIPS")),
    ("LPIPS-squeeze-v0.1", MetricKey(Family.PERCEPTUAL, "LPIPS-squeeze-v0.1")),
    ("PD[squeeze@01234567+89abcdef]", MetricKey(Family.PERCEPTUAL, "PD[squeeze@01234567+89abcdef]")),
    ("class AUC", CLASS_AUC), ("class judge minus baseline", MetricKey(Family.GAIN)),
    ("condition AUC[FOCAL_PLANE]", MetricKey(Family.AUC, condition="FOCAL_PLANE")),
    ("ratio of condition AUC[z[um]]", MetricKey(Family.AUC, condition="z[um]", is_ratio=True)),
    ("ratio of class balanced accuracy", MetricKey(Family.ACCURACY, is_ratio=True)),
    ("judged as a [b]", MetricKey(Family.CONFUSION, "a [b]")),
    ("condition judged as +15[PLANE]", MetricKey(Family.CONFUSION, "+15", "PLANE")),
    ("grain power[2-4 px]", MetricKey(Family.CHECK, "grain power[2-4 px]")),
    ("looks like its class", MetricKey(Family.CHECK, "looks like its class")),
    ("looks like arrested", MetricKey(Family.LOOKS_LIKE, "arrested")),
    ("adjusted p of empty images", MetricKey(Family.ADJUSTED_P, "empty images")),
    ("morphometry: mean area", MetricKey(Family.MORPHOMETRY, "mean area")),
    ("class", MetricKey(Family.OTHER, "class")), ("r[x]", MetricKey(Family.OTHER, "r[x]")),
])
def test_a_name_and_its_key(name: str, key: MetricKey) -> None:
    assert parse_metric(name) == key and key.name == name


@pytest.mark.parametrize("name", ["", "KD", "KD[", "KD]x[", "condition AUC", "condition judged as [", "ratio of ",
                                  "judged as ",
                                  "condition judged as a[b][c]", "ratio of judged as a", "class judged as a", "FID[x]"])
def test_any_name_comes_back_as_it_was(name: str) -> None:
    assert parse_metric(name).name == name


@pytest.mark.parametrize(("metric", "encoder"), [
    ("FID", "inception"), ("KID", "inception"), ("p of KID", "inception"), ("coverage[FID features]", "inception"),
    (f"KD[{SPACE}]", "squeezenet1_1"), ("p of KD[vae@0123abcd,grid8]", "vae"),
    ("near-copies[untrained_conv@0123abcd,native]", "untrained_conv"), ("near-copies[pixels at 16 px]", None),
    ("class AUC", None), ("condition AUC[FOCAL_PLANE]", None), ("SSIM", None), ("grain power[2-4 px]", None),
])
def test_the_encoder_of_a_metric(metric: str, encoder: str | None) -> None:
    assert parse_metric(metric).encoder == encoder


def test_a_metric_of_pixels_and_features_has_a_space_that_leaves_out_the_weights() -> None:
    assert parse_metric(f"KD[{SPACE}]").space == "squeezenet1_1"
    assert parse_metric("near-copies[pixels at 16 px]").space == "pixels at 16 px"
    assert parse_metric("FID").short == "FID" and parse_metric(f"FD[{SPACE}]").short == "FD"
