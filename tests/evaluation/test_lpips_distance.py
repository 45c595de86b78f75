"""LPIPS as an embedding against the lpips package, the finding of weights, and the honesty of the name."""

import shutil
import warnings
from pathlib import Path

import lpips
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image

from config.errors import UserError
from tools.evaluation.encoders.trunks import NETS, hash_tensors, identify
from tools.evaluation.lpips_distance import load_perceptual

SHARED = Path(__file__).parents[2].parent / "shared" / "weights" / "lpips_squeeze"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared LPIPS weights are not beside the repository")


@pytest.fixture(autouse=True)
def empty_hub(tmp_path, monkeypatch):
    """Keep whatever lies in this machine's hub cache out of the tests."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    return tmp_path / "torch_home" / "hub" / "checkpoints"


def _random_oracle(net, seed=0):
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision with arguments that it gave up
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def _trunk_of(oracle):
    """Bare trunk keys from the package's slices ("net.slice2.3.squeeze.weight" is "3.squeeze.weight")."""
    return {
        name.split(".", 2)[2]: tensor.clone() for name, tensor in oracle.state_dict().items() if name.startswith("net.")
    }


def _head_file(net):
    return Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"


def _save_trunk(folder, net="squeeze", name="trunk.pth"):
    folder.mkdir(parents=True, exist_ok=True)
    oracle = _random_oracle(net)
    torch.save(_trunk_of(oracle), folder / name)
    return oracle


def _images(count, size=64, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def _oracle_values(oracle, a, b):
    """The package's own distances of images paired one to one."""
    tensors = [torch.from_numpy(x.copy()).permute(0, 3, 1, 2) for x in (a, b)]
    with torch.no_grad():
        values = oracle(*[x.float() / 127.5 - 1.0 for x in tensors])
    return values.flatten().double().numpy()


@pytest.mark.parametrize("net", ["squeeze", "alex", "vgg"])
def test_equals_the_package_on_random_trunks(tmp_path, net):
    oracle = _save_trunk(tmp_path, net)
    metric = load_perceptual(tmp_path / "trunk.pth")
    assert metric.net == net
    a, b = _images(4), _images(4, seed=1)
    ours = metric.pairwise(a, b, np.stack([np.arange(4)] * 2, axis=1))
    assert ours == pytest.approx(_oracle_values(oracle, a, b), abs=1e-6, rel=1e-5)


def test_all_ways_to_pair_agree(tmp_path):
    _save_trunk(tmp_path)
    metric = load_perceptual(tmp_path)
    a, b = _images(6, 32), _images(5, 32, seed=1)
    b[2] = a[3]
    matrix = metric.matrix(metric.embed(a), metric.embed(b))
    pairs = np.argwhere(np.ones((6, 5)))
    assert matrix[3, 2] == pytest.approx(0.0, abs=1e-12)
    for options in ({}, {"memory_bytes": 1}, {"memory_bytes": 4 * metric.row_bytes(a)}, {"batch_size": 1}):
        assert metric.pairwise(a, b, pairs, **options) == pytest.approx(matrix.ravel(), rel=1e-5, abs=1e-12)
    few = pairs[[0, 13, 29]]  # taken from differences, not from a matrix product
    assert metric.pairwise(a, b, few) == pytest.approx(matrix[few[:, 0], few[:, 1]], rel=1e-5, abs=1e-12)
    inner = np.array([[0, 1], [4, 2], [5, 5]])
    assert metric.pairwise(a, a, inner) == pytest.approx(metric.pairwise(a, a.copy(), inner), rel=1e-5, abs=1e-12)
    assert metric.pairwise(a, b, np.zeros((0, 2))).shape == (0,)


def test_near_copies_are_not_lost_to_cancellation(tmp_path):
    _save_trunk(tmp_path)
    metric = load_perceptual(tmp_path)
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 4000)).astype(np.float32)
    b = a + (1e-6 * rng.normal(size=a.shape)).astype(np.float32)
    exact = ((a.astype(np.float64) - b) ** 2).sum(axis=1)
    assert np.diag(metric.matrix(a, b)) == pytest.approx(exact, rel=1e-12)
    assert np.array_equal(np.diag(metric.matrix(a, a)), np.zeros(3))


def test_gray_is_repeated_to_three_channels(tmp_path):
    _save_trunk(tmp_path)
    metric = load_perceptual(tmp_path)
    gray = _images(2, 32, channels=1)
    pair = np.array([[0, 1]])
    rgb = np.repeat(gray, 3, axis=3)
    assert metric.pairwise(gray, gray, pair) == pytest.approx(metric.pairwise(rgb, rgb, pair), rel=1e-6)


@needs_shared
def test_published_weights_give_the_published_figures():
    metric = load_perceptual(SHARED)
    reference, far, near = (
        np.asarray(Image.open(SHARED / f"ex_{name}.png").convert("RGB"))[None] for name in ("ref", "p0", "p1")
    )
    pair = np.array([[0, 0]])
    assert metric.name == "LPIPS-squeeze-v0.1" and metric.literature_comparable
    assert metric.pairwise(reference, far, pair)[0] == pytest.approx(0.711, abs=5e-4)
    assert metric.pairwise(reference, near, pair)[0] == pytest.approx(0.148, abs=5e-4)
    oracle = _random_oracle("squeeze")
    state = torch.load(SHARED / "squeezenet1_1_features.pth", map_location="cpu", weights_only=True)
    names = {name.split(".", 2)[2]: name for name in oracle.state_dict() if name.startswith("net.")}
    oracle.load_state_dict({names[name]: tensor for name, tensor in state.items()}, strict=False)
    for other in (far, near):
        expected = _oracle_values(oracle, reference, other)[0]
        assert metric.pairwise(reference, other, pair)[0] == pytest.approx(expected, abs=1e-6)


@needs_shared
def test_more_blur_is_farther():
    metric = load_perceptual(SHARED)
    picture = Image.open(SHARED / "ex_ref.png").convert("RGB")
    small = [picture.resize((64 // f,) * 2, Image.BOX).resize((64, 64), Image.BICUBIC) for f in (1, 2, 4, 8)]
    images = np.stack([np.asarray(item) for item in small])
    values = metric.pairwise(images, images, np.array([[0, i] for i in range(4)]))
    assert list(values) == sorted(values) and values[0] == pytest.approx(0.0, abs=1e-12) and values[1] > 0.001


@needs_shared
def test_name_falls_back_when_one_weight_changes(tmp_path):
    state = torch.load(SHARED / "squeezenet1_1_features.pth", map_location="cpu", weights_only=True)
    torch.save(state, tmp_path / "same.pth")  # another container, the same tensors
    assert load_perceptual(tmp_path / "same.pth").name == "LPIPS-squeeze-v0.1"
    state["0.bias"][0] += 1e-3
    torch.save(state, tmp_path / "changed.pth")
    changed = load_perceptual(tmp_path / "changed.pth")
    assert changed.name.startswith("PD[squeeze@") and not changed.literature_comparable


def test_random_trunk_is_never_called_lpips(tmp_path):
    _save_trunk(tmp_path)
    metric = load_perceptual(tmp_path / "trunk.pth")
    assert metric.name == f"PD[squeeze@{metric.trunk_sha256[:8]}+{metric.head_sha256[:8]}]"


@pytest.mark.parametrize("net", list(NETS))
def test_heads_of_the_package_are_recognised_by_keys_and_hash(net):
    head = torch.load(_head_file(net), map_location="cpu", weights_only=True)
    assert identify(head) == ("head", net)
    assert hash_tensors(head) == NETS[net].head_hash


def test_trunk_is_read_from_bare_keys_full_state_dict_safetensors_and_hub_cache(tmp_path, empty_hub):
    oracle = _save_trunk(tmp_path / "bare")
    bare = _trunk_of(oracle)
    full = {f"features.{name}": tensor for name, tensor in bare.items()} | {"classifier.1.bias": torch.zeros(1000)}
    torch.save(full, tmp_path / "full.pth")
    safetensors.torch.save_file(bare, tmp_path / "bare.safetensors")
    empty_hub.mkdir(parents=True)
    torch.save(full, empty_hub / "squeezenet1_1-b8a52dc0.pth")
    a, b, pair = _images(1, 32), _images(1, 32, seed=1), np.array([[0, 0]])
    expected = load_perceptual(tmp_path / "bare" / "trunk.pth").pairwise(a, b, pair)
    for path in (tmp_path / "full.pth", tmp_path / "bare.safetensors", None, _head_file("squeeze")):
        assert load_perceptual(path).pairwise(a, b, pair) == pytest.approx(expected, rel=1e-9)


def _save_published(net, form, folder):
    """Random weights of `net` in a published form; returns the path to name and the trunk, bare."""
    models = torchvision.models
    build = {"squeeze": models.squeezenet1_1, "alex": models.alexnet, "vgg": models.vgg16}
    torch.manual_seed(0)
    with torch.device("meta"):
        whole = build[net](weights=None).state_dict()
    full = {name: 0.05 * torch.randn(tensor.shape if name.startswith("features.") else 1) for name, tensor in whole.items()}
    assert any(name.startswith("classifier.") for name in full)
    features = {name: tensor for name, tensor in full.items() if name.startswith("features.")}
    torch.save(full if form == "torchvision" else features, folder / f"{net}.pth")
    if form == "folder with the head":
        (folder / "both").mkdir()
        (folder / f"{net}.pth").rename(folder / "both" / "trunk.pth")
        shutil.copy(_head_file(net), folder / "both" / f"{net}.pth")
        return folder / "both", features
    return folder / f"{net}.pth", features


@pytest.mark.parametrize("form", ["torchvision", "features alone", "folder with the head"])
@pytest.mark.parametrize("net", list(NETS))
def test_published_forms_equal_the_package(tmp_path, net, form):
    path, features = _save_published(net, form, tmp_path)
    oracle = _random_oracle(net)
    names = {name.split(".", 2)[2]: name for name in oracle.state_dict() if name.startswith("net.")}
    loaded = oracle.load_state_dict({names[name[9:]]: tensor for name, tensor in features.items()}, strict=False)
    assert not loaded.unexpected_keys and not any(name.startswith("net.") for name in loaded.missing_keys)
    a, b = _images(1, 32), _images(1, 32, seed=1)
    metric = load_perceptual(path)
    assert metric.name.startswith(f"PD[{net}@")
    ours = metric.pairwise(a, b, np.array([[0, 0]]))
    assert ours[0] > 0.01 and ours == pytest.approx(_oracle_values(oracle, a, b), abs=1e-6, rel=1e-5)


@pytest.mark.parametrize("net", list(NETS))
def test_a_head_alone_says_which_trunk_is_missing_or_finds_it_in_the_cache(tmp_path, empty_hub, net):
    with pytest.raises(UserError, match=rf"trunk of {net} \({NETS[net].file_name}.*only its linear head in .*{net}\.pth"
                                        rf".*fetch https.*{NETS[net].file_name}.*dataset_params\.lpips_path, or a folder"):
        load_perceptual(_head_file(net))
    path, features = _save_published(net, "features alone", tmp_path)
    empty_hub.mkdir(parents=True)
    torch.save(features, empty_hub / NETS[net].file_name)
    a, b, pair = _images(1, 32), _images(1, 32, seed=1), np.array([[0, 0]])
    by_head = load_perceptual(_head_file(net))
    assert by_head.net == net and by_head.pairwise(a, b, pair) == load_perceptual(path).pairwise(a, b, pair)


def test_a_folder_with_squeeze_and_others_is_squeeze_and_one_with_two_others_is_refused(tmp_path):
    _save_trunk(tmp_path / "all", "squeeze")
    for net in NETS:
        shutil.copy(_head_file(net), tmp_path / "all" / f"{net}.pth")
    assert load_perceptual(tmp_path / "all").net == "squeeze"
    _save_trunk(tmp_path / "two", "alex")
    shutil.copy(_head_file("vgg"), tmp_path / "two" / "vgg.pth")
    with pytest.raises(UserError, match="expected LPIPS weights of one network, found alex and vgg"):
        load_perceptual(tmp_path / "two")


def test_refuses_weights(tmp_path):
    with pytest.raises(UserError, match=r"squeezenet1_1-b8a52dc0.*dataset_params\.lpips_path"):
        load_perceptual(None)
    with pytest.raises(UserError, match="ImageNet trunk of squeeze"):  # a head alone, silently paired with nothing
        load_perceptual(_head_file("squeeze"))
    with pytest.raises(UserError, match="found nothing there"):
        load_perceptual(tmp_path / "absent.pth")
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    with pytest.raises(UserError, match="could not read"):
        load_perceptual(tmp_path / "broken.pth")
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="found other keys"):
        load_perceptual(tmp_path / "other.pth")
    _save_trunk(tmp_path / "alex", "alex")
    with pytest.raises(UserError, match="ImageNet trunk of squeeze"):  # the wrong network's trunk is no trunk
        load_perceptual(tmp_path / "alex" / "trunk.pth", net="squeeze")
    _save_trunk(tmp_path / "two")
    _save_trunk(tmp_path / "two", name="again.pth")
    with pytest.raises(UserError, match="expected one trunk of squeeze, found 2"):
        load_perceptual(tmp_path / "two")
    with pytest.raises(UserError, match="network among squeeze, alex, vgg"):
        load_perceptual(tmp_path / "two", net="resnet")


def test_refuses_a_head_with_negative_weights(tmp_path):
    _save_trunk(tmp_path)
    head = torch.load(_head_file("squeeze"), map_location="cpu", weights_only=True)
    head["lin0.model.1.weight"][0, 0] = -1.0
    torch.save(head, tmp_path / "head.pth")
    with pytest.raises(UserError, match="none below zero"):
        load_perceptual(tmp_path)


def test_refuses_images(tmp_path):
    _save_trunk(tmp_path)
    metric = load_perceptual(tmp_path)
    with pytest.raises(UserError, match="uint8"):  # [0, 1] floats would come out 4 to 7 times too near
        metric.embed(np.random.default_rng(0).random((1, 64, 64, 3)))
    with pytest.raises(UserError, match="at least 32 x 32 px"):
        metric.embed(_images(1, 16))
    with pytest.raises(UserError, match="expected one size"):
        metric.pairwise(_images(1, 32), _images(1, 64), np.array([[0, 0]]))
