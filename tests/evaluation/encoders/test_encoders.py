"""What every encoder promises: names, exact arithmetic, independence of the batch, refusals."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
import transformers
from diffusers import AutoencoderKL
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from config.errors import UserError
from models.classifier import Classifier, ClassifierConfig
from tools.evaluation.encoders.dinov2 import load_dinov2
from tools.evaluation.encoders.encoder import load_encoder
from tools.evaluation.encoders.untrained import UNTRAINED
from tools.evaluation.frechet import frechet_distance
from tools.evaluation.inference import exact_inference

SHARED = Path(__file__).parents[3].parent / "shared" / "weights" / "lpips_squeeze"


def _squeezenet(folder):
    torch.manual_seed(0)
    path = folder / "squeezenet.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return load_encoder("squeezenet1_1", weights_path=path)


def _classifier(folder, channels=1):
    torch.manual_seed(0)
    for name, data in Classifier(ClassifierConfig(channels, 2, 32)).to_files().items():
        (folder / name).write_bytes(data)
    return load_encoder("classifier", weights_path=folder)


def _dinov2(folder, seed=0):
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 224}
    Dinov2Model(Dinov2Config(**shape)).save_pretrained(folder)
    return load_encoder("dinov2", weights_path=folder)


def _vae(folder, channels=1, seed=0):
    torch.manual_seed(seed)
    AutoencoderKL(
        in_channels=channels, out_channels=channels, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8), layers_per_block=1, latent_channels=4,
        norm_num_groups=4, sample_size=32, mid_block_add_attention=False,
    ).save_pretrained(folder)
    return load_encoder("vae", weights_path=folder)


MAKERS = {"squeezenet1_1": _squeezenet, "classifier": _classifier, "dinov2": _dinov2, "vae": _vae,
          **{name: lambda _, name=name: load_encoder(name, weights_path=None) for name in UNTRAINED}}


@pytest.fixture(params=list(MAKERS))
def encoder(request, tmp_path):
    return MAKERS[request.param](tmp_path)


def _images(count, size=32, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def test_shape_type_and_batch_independence(encoder):
    images = _images(7)
    features = encoder.encode(images, batch_size=7)
    assert features.shape == (7, encoder.dimension) and features.dtype == np.float32
    scale = np.abs(features).max()
    for size in (1, 3):
        assert np.abs(encoder.encode(images, batch_size=size) - features).max() <= 1e-5 * scale
    assert np.abs(encoder.encode(images[::-1]) - features[::-1]).max() <= 1e-5 * scale


def test_autocast_around_it_does_not_reach_in(encoder):
    images = _images(4)
    expected = encoder.encode(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(encoder.encode(images), expected)


def test_name_carries_weights_and_preset(encoder):
    assert not encoder.literature_comparable
    assert encoder.space == f"{encoder.name}@{encoder.weights_sha256[:8]},{encoder.preset}"


def test_progress_counts_up_to_all(encoder):
    seen = []
    encoder.encode(_images(5), batch_size=2, progress=seen.append)
    assert seen == [2, 4, 5]


def test_refuses_images_that_are_not_8_bit(encoder):
    with pytest.raises(UserError, match="do not truncate"):
        encoder.encode(np.zeros((2, 32, 32, 1), np.float32))
    with pytest.raises(UserError, match=r"\(N, H, W, 1 or 3\)"):
        encoder.encode(np.zeros((2, 32, 32, 4), np.uint8))
    with pytest.raises(UserError, match="at least one image"):
        encoder.encode(np.zeros((0, 32, 32, 1), np.uint8))


def test_exact_inference_restores_precision_and_turns_tf32_off():
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    with pytest.raises(RuntimeError), exact_inference(torch.device("cpu")):
        assert [backend.fp32_precision for backend in backends] == ["ieee", "ieee"]
        assert torch.is_inference_mode_enabled()
        raise RuntimeError
    assert [backend.fp32_precision for backend in backends] == before


def test_squeezenet_is_the_pooled_trunk_with_imagenet_statistics(tmp_path):
    encoder = _squeezenet(tmp_path)
    images = _images(2, 240, 3)
    network = torchvision.models.squeezenet1_1(weights=None).eval()
    network.load_state_dict(torch.load(tmp_path / "squeezenet.pth", weights_only=True))
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        x = normalise(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
        expected = network.features(x).mean(dim=(2, 3)).numpy()
    assert encoder.encode(images) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_squeezenet_presets_enlarge_to_their_least_side(tmp_path):
    default = _squeezenet(tmp_path)
    fast = load_encoder("squeezenet1_1", weights_path=tmp_path / "squeezenet.pth", preset="imagenet-min64")
    assert (default.preset, fast.preset) == ("imagenet-min224", "imagenet-min64")
    assert default.space != fast.space
    flat = np.full((1, 32, 32, 3), 90, np.uint8)
    for encoder, side in ((default, 224), (fast, 64)):
        expected = encoder.encode(np.full((1, side, side, 3), 90, np.uint8))
        assert encoder.encode(flat) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert not np.allclose(default.encode(flat), fast.encode(flat), rtol=1e-3)


def test_classifier_features_are_the_penultimate_ones_in_eval_mode(tmp_path):
    encoder = _classifier(tmp_path)
    images = _images(2)
    model = Classifier.from_folder(tmp_path)
    with torch.no_grad():
        expected = model.features(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    assert encoder.encode(images) == pytest.approx(expected.numpy(), rel=1e-5, abs=1e-6)
    assert np.array_equal(encoder.encode(images), encoder.encode(images))


def test_classifier_refuses_other_sizes_and_channels(tmp_path):
    encoder = _classifier(tmp_path)
    for images in (_images(1, 48), _images(1, 32, 3)):
        with pytest.raises(UserError, match="32 x 32 x 1 as in its training"):
            encoder.encode(images)


def test_dinov2_is_the_class_token_of_the_antialiased_square(tmp_path):
    encoder = _dinov2(tmp_path)
    images = _images(2, 300)
    gray = [np.asarray(Image.fromarray(image[..., 0]).resize((224, 224), Image.Resampling.BICUBIC)) for image in images]
    pixels = torch.from_numpy(np.stack(gray)).float()[:, None].expand(-1, 3, -1, -1) / 255
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(tmp_path).eval()(normalise(pixels)).pooler_output
    assert encoder.preset == "square224" and encoder.dimension == 16
    assert encoder.encode(images) == pytest.approx(expected.numpy(), rel=1e-5, abs=1e-5)


LAYOUTS = {"plain": {}, "shards": {"max_shard_size": "10KB"}, "fp16": {"variant": "fp16"}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["Dinov2Model", "Dinov2WithRegistersModel"])
def test_dinov2_folders_of_transformers(tmp_path, kind, layout):
    torch.manual_seed(0)
    config = getattr(transformers, kind.replace("Model", "Config"))
    made = getattr(transformers, kind)(config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=224))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    (made.half() if layout == "fp16" else made).save_pretrained(tmp_path, **LAYOUTS[layout])
    assert (tmp_path / "model.safetensors").exists() == (layout == "plain")
    encoder = load_encoder("dinov2", weights_path=tmp_path)
    x = torch.rand(2, 3, 224, 224)
    variant = LAYOUTS[layout].get("variant")
    oracle = getattr(transformers, kind).from_pretrained(tmp_path, variant=variant, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(load_dinov2(tmp_path)[0](x), oracle(x).pooler_output, atol=1e-6, rtol=0)
    weights = sorted(tmp_path.glob("*.safetensors"))
    assert len(weights) == 1 or layout == "shards"
    data = weights[-1].read_bytes()
    weights[-1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert load_encoder("dinov2", weights_path=tmp_path).weights_sha256 != encoder.weights_sha256


def test_dinov2_of_torch_hub_is_told_the_folder(tmp_path):
    torch.save({"cls_token": torch.zeros(1, 1, 768)}, tmp_path / "dinov2_vitb14_pretrain.pth")
    with pytest.raises(UserError, match=r"found a file.*hf download facebook/dinov2-base config\.json") as caught:
        load_encoder("dinov2", weights_path=tmp_path / "dinov2_vitb14_pretrain.pth")
    assert str(caught.value).isprintable()


def test_dinov2_hash_covers_weights_and_config(tmp_path):
    first, other = _dinov2(tmp_path / "a"), _dinov2(tmp_path / "b", seed=1)
    assert first.weights_sha256 == _dinov2(tmp_path / "c").weights_sha256 != other.weights_sha256
    config = tmp_path / "b" / "config.json"
    config.write_text(config.read_text().replace('"layer_norm_eps": 1e-06', '"layer_norm_eps": 1e-05'))
    assert load_encoder("dinov2", weights_path=tmp_path / "b").weights_sha256 != other.weights_sha256


def test_dinov2_refuses_what_is_not_one(tmp_path):
    with pytest.raises(UserError, match=r"hub id such as facebook/dinov2-small.*evaluation_params\.dinov2_path"):
        load_encoder("dinov2", weights_path=None)
    with pytest.raises(UserError, match="'nobody/nothing' is neither a local folder nor obtainable from the hub"):
        load_encoder("dinov2", weights_path="nobody/nothing")
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_encoder("dinov2", weights_path=tmp_path)
    _dinov2(tmp_path)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"dinov2"', '"vit"'))
    with pytest.raises(UserError, match="expected model_type dinov2 or dinov2_with_registers, found 'vit'"):
        load_encoder("dinov2", weights_path=tmp_path)
    _dinov2(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors.pop("layernorm.weight")
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 tensors missing, unknown or of another shape \(such as layernorm\.weight\)"):
        load_encoder("dinov2", weights_path=tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"not the weights that its config\.json asks for"):
        load_encoder("dinov2", weights_path=tmp_path)


@pytest.mark.parametrize("size", [16, 64])
def test_vae_features_are_the_posterior_mean_on_a_grid(tmp_path, size):
    encoder = _vae(tmp_path)
    images = _images(3, size)
    vae = AutoencoderKL.from_pretrained(tmp_path)
    with torch.no_grad():
        mean = vae.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean.numpy()
    cells = mean.reshape(3, 4, 8, size // 16, 8, size // 16).mean(axis=(3, 5))  # latents have half the side
    assert (encoder.preset, encoder.dimension) == ("grid8", 256)
    assert encoder.encode(images) == pytest.approx(cells.reshape(3, -1), rel=1e-5, abs=1e-6)


def test_vae_takes_gray_in_colour_and_refuses_what_does_not_fit(tmp_path):
    encoder = _vae(tmp_path / "colour", channels=3)
    gray = _images(2)
    assert np.array_equal(encoder.encode(gray), encoder.encode(gray.repeat(3, axis=3)))
    assert encoder.weights_sha256 != _vae(tmp_path / "other", channels=3, seed=1).weights_sha256
    with pytest.raises(UserError, match="gray images or images of 1 channels, found 3"):
        _vae(tmp_path / "gray").encode(_images(2, channels=3))
    with pytest.raises(UserError, match=r"autoencoder_params\.pretrained"):
        load_encoder("vae", weights_path=None)


def test_refuses_unknown_or_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="encoder among inception, squeezenet1_1, classifier, dinov2, vae"):
        load_encoder("resnet", weights_path=None)
    with pytest.raises(UserError, match=r"evaluation_params\.squeezenet_path"):
        load_encoder("squeezenet1_1", weights_path=None)
    with pytest.raises(UserError, match=r"evaluation_params\.classifier_path"):
        load_encoder("classifier", weights_path=None)
    with pytest.raises(UserError, match=r"classifier\.json: expected a trained classifier"):
        load_encoder("classifier", weights_path=tmp_path)
    with pytest.raises(UserError, match="preset among symmetric"):
        load_encoder("classifier", weights_path=tmp_path, preset="tf1")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared ImageNet trunk is not beside the repository")
def test_more_blur_and_more_noise_are_farther_in_real_features():
    encoder = load_encoder("squeezenet1_1", weights_path=SHARED)
    rng = np.random.default_rng(0)
    grid = np.arange(64)
    centres, radii = rng.uniform(22, 42, (60, 2)), rng.uniform(8, 20, 60)
    distance = np.hypot(grid[None, :, None] - centres[:, :1, None], grid[None, None, :] - centres[:, 1:, None])
    images = 120 + 80 * (distance < radii[:, None, None]) + rng.normal(0, 3, (60, 64, 64))

    def encode(values):
        return encoder.encode(np.clip(np.rint(values), 0, 255).astype(np.uint8)[..., None])

    def blurred(width):
        window = np.ones(width) / width
        rows = np.apply_along_axis(np.convolve, 1, images, window, mode="same")
        return np.apply_along_axis(np.convolve, 2, rows, window, mode="same")

    real = encode(images)
    blur = [frechet_distance(real, encode(blurred(width))) for width in (1, 3, 7)]
    noise = [frechet_distance(real, encode(images + rng.normal(0, level, images.shape))) for level in (0, 8, 30)]
    assert blur == sorted(blur) and noise == sorted(noise)
    assert blur[0] < 1e-3 * blur[1] and noise[0] < 1e-3 * noise[1]
