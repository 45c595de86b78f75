"""Every metric beside the libraries that others use, on the same images and features in one run.

Official weights are not at hand here, so networks share random ones. torch-fidelity, pytorch-fid, clean-fid, prdc, lpips
and scikit-image compute everything asked of them. pytorch-fid and clean-fid call scipy's sqrtm with an argument that is
on its way out: it works with the pinned scipy, with a deprecation warning that is ignored here.
"""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import lpips
import numpy as np
import prdc
import pytest
import pytorch_fid.fid_score
import pytorch_fid.inception
import torch
from cleanfid import fid as clean_fid
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from scipy.linalg import sqrtm
from skimage.metrics import structural_similarity
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from config.schema import INCEPTION_FILE
from tools.evaluation.encoders.encoder import load_encoder
from tools.evaluation.encoders.inception import FidInception
from tools.evaluation.frechet import frechet_distance
from tools.evaluation.kernel import kernel_distance
from tools.evaluation.lpips_distance import load_perceptual
from tools.evaluation.neighbours import neighbour_scores
from tools.evaluation.ssim import pairwise_ssim

NEIGHBOURS = 5


@dataclass(frozen=True)
class Features:
    """Features of two sets that overlap, both float64 (N, 48), more and fewer images than columns."""

    real: np.ndarray
    synthetic: np.ndarray


@pytest.fixture(scope="module", params=[(120, 100), (30, 40)], ids=["more images than features", "fewer"])
def features(request: pytest.FixtureRequest) -> Features:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(48, 48)) / 7
    n, m = request.param
    return Features(rng.normal(size=(n, 48)) @ mix, 0.9 * rng.normal(size=(m, 48)) @ mix + 0.1)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth gray images with noise, as RGB: uint8 (2, 64, 48, 3)."""
    rng = np.random.default_rng(1)
    smooth = rng.normal(0, 40, size=(2, 8, 6)).repeat(8, axis=1).repeat(8, axis=2)
    gray = np.clip(120 + smooth + rng.normal(0, 12, size=smooth.shape), 0, 255).round().astype(np.uint8)
    return gray[..., None].repeat(3, axis=3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """He-scaled random weights of the FID network, where torch's hub would keep the published ones."""
    torch.manual_seed(0)
    network = FidInception()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.8, 1.2)
    path = tmp_path_factory.mktemp("home") / "hub" / "checkpoints" / INCEPTION_FILE
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pytorch_network(weights: Path) -> nn.Module:
    """pytorch-fid's own network; it finds the weights in the hub cache and downloads nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(weights.parents[2]))
        return pytorch_fid.inception.InceptionV3([3]).eval()


class PastResizing(nn.Module):
    """The published TorchScript file holds its network under `layers`; here it is pytorch-fid's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[block for group in network.blocks for block in group])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def features_of_torch_fidelity(images: np.ndarray, weights: Path, _: nn.Module, __: Path) -> np.ndarray:
    oracle = FeatureExtractorInceptionV3("oracle", ["2048"], feature_extractor_weights_path=str(weights))
    with torch.no_grad():
        return oracle(torch.from_numpy(images).permute(0, 3, 1, 2))[0].numpy()


def features_of_pytorch_fid(images: np.ndarray, _: Path, network: nn.Module, __: Path) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0)[0].flatten(1).numpy()


def features_of_clean_fid(images: np.ndarray, _: Path, network: nn.Module, folder: Path) -> np.ndarray:
    resize = build_resizer("clean")
    batch = torch.from_numpy(np.stack([resize(image) for image in images])).permute(0, 3, 1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is on its way out
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.trace(PastResizing(network).eval(), torch.zeros(1, 3, 299, 299), check_trace=False).save(
            folder / "inception-2015-12-05.pt")
        oracle = InceptionV3W(str(folder), download=False)
        return clean_fid.get_batch_features(batch, oracle, torch.device("cpu"))


ORACLES = {"tf1": features_of_torch_fidelity, "pytorch": features_of_pytorch_fid, "clean": features_of_clean_fid}


@pytest.fixture(scope="module")
def by_preset(images: np.ndarray, weights: Path) -> dict[str, np.ndarray]:
    return {preset: load_encoder("inception", weights_path=weights, preset=preset).encode(images) for preset in ORACLES}


@pytest.mark.parametrize("preset", list(ORACLES))
def test_features_of_every_preset(
    preset: str, images: np.ndarray, weights: Path, pytorch_network: nn.Module, by_preset: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    expected = ORACLES[preset](images, weights, pytorch_network, tmp_path)
    scale = np.abs(expected).max()
    assert scale > 0.1
    assert np.abs(by_preset[preset] - expected).max() <= 1e-5 * scale


def test_presets_are_not_interchangeable(by_preset: dict[str, np.ndarray]) -> None:
    scale = np.abs(by_preset["tf1"]).max()
    for first, second in (("tf1", "clean"), ("tf1", "pytorch"), ("clean", "pytorch")):
        assert np.abs(by_preset[first] - by_preset[second]).max() > 1e-3 * scale


def test_frechet_distance(features: Features) -> None:
    ours = frechet_distance(features.real, features.synthetic)
    statistics = [fid_features_to_statistics(torch.from_numpy(v)) for v in (features.real, features.synthetic)]
    by_torch_fidelity = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    moments = [(v.mean(axis=0), np.cov(v, rowvar=False)) for v in (features.real, features.synthetic)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        by_pytorch_fid = pytorch_fid.fid_score.calculate_frechet_distance(*moments[0], *moments[1])
        by_clean_fid = clean_fid.fid_from_feats(features.real, features.synthetic)
    assert [by_torch_fidelity, by_pytorch_fid, by_clean_fid] == pytest.approx([ours] * 3, rel=1e-6)


def test_kernel_distance(features: Features) -> None:
    """On one subset of all images, which both libraries ask to be of one size a side."""
    n = min(len(features.real), len(features.synthetic))
    real, synthetic = features.real[:n], features.synthetic[:n]
    ours = kernel_distance(real, synthetic)
    by_torch_fidelity = kid_features_to_metric(
        torch.from_numpy(real), torch.from_numpy(synthetic), kid_subsets=1, kid_subset_size=n, verbose=False)
    by_clean_fid = clean_fid.kernel_distance(real, synthetic, num_subsets=1, max_subset_size=n)
    assert abs(ours) > 1e-4
    assert by_torch_fidelity["kernel_inception_distance_mean"] == pytest.approx(ours, abs=1e-6)
    assert by_clean_fid == pytest.approx(ours, abs=1e-6)


def test_precision_recall_density_coverage(features: Features) -> None:
    ours = neighbour_scores(features.real, features.synthetic, k=NEIGHBOURS)
    expected = prdc.compute_prdc(features.real, features.synthetic, nearest_k=NEIGHBOURS)
    for name in ("precision", "recall", "coverage"):
        assert getattr(ours, name) == expected[name]
    assert ours.density == pytest.approx(expected["density"], rel=1e-15)  # divided by k before or after the sum


def test_lpips(images: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision with arguments that it gave up
        oracle = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    trunk = {name.split(".", 2)[2]: tensor for name, tensor in oracle.state_dict().items() if name.startswith("net.")}
    torch.save(trunk, tmp_path / "trunk.pth")
    pairs = np.array([[0, 1], [1, 1], [1, 0]])
    ours = load_perceptual(tmp_path / "trunk.pth").pairwise(images, images, pairs)
    first, second = (torch.from_numpy(images[pairs[:, side]]).permute(0, 3, 1, 2) for side in (0, 1))
    with torch.no_grad():
        expected = oracle(first / 255.0, second / 255.0, normalize=True).flatten().double().numpy()
    assert ours == pytest.approx(expected, abs=1e-6)
    assert ours[0] > 1e-3 and ours[1] == 0


def test_ssim(images: np.ndarray) -> None:
    pairs = np.array([[0, 1], [1, 1], [1, 0]])
    expected = [structural_similarity(images[i], images[j], gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                      data_range=255, channel_axis=2) for i, j in pairs]
    assert pairwise_ssim(images, images, pairs) == pytest.approx(expected, abs=1e-10)


def test_the_frechet_distance_is_much_faster_than_a_matrix_square_root() -> None:
    """At n = 300 and d = 2048 it took 0.07 s against 42 s; a quarter of the columns and a guard of 5 keep this short."""
    rng = np.random.default_rng(2)
    real, synthetic = rng.normal(size=(60, 512)), rng.normal(size=(60, 512)) + 0.05
    start = time.process_time()
    ours = frechet_distance(real, synthetic)
    ours_s = time.process_time() - start
    covariances = [np.cov(v, rowvar=False) for v in (real, synthetic)]
    start = time.process_time()
    root = sqrtm(covariances[0] @ covariances[1])
    sqrtm_s = time.process_time() - start
    assert sqrtm_s > 5 * ours_s
    shift = real.mean(axis=0) - synthetic.mean(axis=0)
    expected = shift @ shift + np.trace(covariances[0] + covariances[1]) - 2.0 * np.trace(root).real
    assert ours == pytest.approx(expected, rel=1e-4)
