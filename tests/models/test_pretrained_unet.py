"""A UNet of diffusers' with learned class tokens: the library's own outputs, LoRA that begins at the base, refusals."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from config.errors import UserError
from models.pretrained_unet import LoraShape, PretrainedBase, PretrainedUNet, read_text_vectors
from models.trained_part import TrainedPart, trained_parameters
from models.unet import ConditionShape

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
WIDTH = 16


def save_unet(folder: Path, *, seed: int = 0, **changes: object) -> UNet2DConditionModel:
    """The layout of Stable Diffusion 1.5, four levels and cross-attention, at its smallest, with random weights."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**{"sample_size": 8, "block_out_channels": (8, 8, 16, 16), "layers_per_block": 1,
                                   "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": WIDTH, **changes})
    unet.save_pretrained(folder)
    return unet.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sd")
    save_unet(root / "unet")
    (root / "scheduler").mkdir()
    (root / "scheduler/scheduler_config.json").write_text(json.dumps({
        "_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "num_train_timesteps": 1000}), encoding="utf-8")
    return root


def make(folder: Path, *, lora: LoraShape | None = None, checkpointing: bool = False, seed: int = 1) -> PretrainedUNet:
    torch.manual_seed(seed)
    return PretrainedUNet(PretrainedBase.open(str(folder)).build(), num_classes=2, conditions=(ConditionShape(3),),
                          tokens_per_class=4, lora=lora, gradient_checkpointing=checkpointing)


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(2)
    return (torch.randn(3, 4, 8, 8, generator=rng), torch.tensor([1, 500, 999]), torch.tensor([0, 1, 2]),
            torch.tensor([[0], [2], [3]]))


def test_outputs_are_the_librarys_own_for_the_same_tokens(folder: Path, batch: tuple[torch.Tensor, ...]) -> None:
    x, timesteps, labels, conditions = batch
    network = make(folder).eval()
    tokens = torch.cat([network.class_tokens(labels).reshape(3, 4, WIDTH),
                        network.condition_tokens[0](conditions[:, 0]).reshape(3, 4, WIDTH)], dim=1)
    library = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    expected = library(x, timesteps, encoder_hidden_states=tokens, return_dict=False)[0]
    assert (network(*batch) - expected).abs().max() <= 1e-6


def test_lora_begins_at_the_base_to_the_bit_and_trains_adapters_and_tokens_alone(
    folder: Path, batch: tuple[torch.Tensor, ...]
) -> None:
    whole, adapted = make(folder).eval(), make(folder, lora=LoraShape(2, 2.0, TARGETS)).eval()
    with torch.no_grad():
        TrainedPart(adapted.class_tokens).load_state_dict(whole.class_tokens.state_dict())
        TrainedPart(adapted.condition_tokens).load_state_dict(whole.condition_tokens.state_dict())
    assert torch.equal(adapted(*batch), whole(*batch))
    names = set(trained_parameters(adapted))
    assert {name for name in names if "lora_" not in name} == {"class_tokens.weight", "condition_tokens.0.weight"}
    assert sum(p.numel() for p in trained_parameters(adapted).values()) < sum(p.numel() for p in whole.parameters()) / 5
    assert set(trained_parameters(whole)) == {name for name, _ in whole.named_parameters()}


@pytest.mark.parametrize("lora", [None, LoraShape(4, 8.0, TARGETS)])
def test_a_fine_tune_lowers_the_loss_and_its_trained_part_restores_it(
    folder: Path, batch: tuple[torch.Tensor, ...], lora: LoraShape | None
) -> None:
    network, target = make(folder, lora=lora).train(), torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.AdamW(trained_parameters(network).values(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = (network(*batch) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    other = make(folder, lora=lora, seed=9)
    TrainedPart(other).load_state_dict(TrainedPart(network).state_dict())
    assert torch.equal(other.eval()(*batch), network.eval()(*batch))


def test_checkpointed_gradients_are_the_plain_ones(folder: Path, batch: tuple[torch.Tensor, ...]) -> None:
    gradients = []
    for checkpointing in (False, True):
        network = make(folder, checkpointing=checkpointing).train()
        network(*batch).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    assert all(torch.allclose(gradient, gradients[1][name], rtol=1e-5, atol=1e-9) for name, gradient in gradients[0].items())


def test_the_scheduler_beside_the_unet_says_its_process(folder: Path, tmp_path: Path) -> None:
    process = {"num_timesteps": 1000, "schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
               "prediction_type": "epsilon"}
    assert PretrainedBase.open(str(folder)).read_process() == process
    assert PretrainedBase.open(str(folder / "unet")).read_process() == process
    save_unet(tmp_path / "alone")
    assert PretrainedBase.open(str(tmp_path / "alone")).read_process() is None
    save_unet(tmp_path / "odd/unet")
    (tmp_path / "odd/scheduler").mkdir()
    (tmp_path / "odd/scheduler/scheduler_config.json").write_text('{"beta_schedule": "sigmoid"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"not a scheduler of these kinds: linear, scaled_linear"):
        PretrainedBase.open(str(tmp_path / "odd")).read_process()


def test_the_hash_is_of_shape_and_weights(folder: Path, tmp_path: Path) -> None:
    save_unet(tmp_path / "same")
    save_unet(tmp_path / "other", seed=5)
    first, same, other = (PretrainedBase.open(str(path)).sha256 for path in (folder, tmp_path / "same", tmp_path / "other"))
    assert first == same != other


def test_networks_that_ask_for_more_are_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config = json.loads((folder / "unet/config.json").read_text(encoding="utf-8"))
    for change, message in (({"addition_embed_type": "text_time"}, r"further inputs \(addition_embed_type\), such as SDXL"),
                            ({"cross_attention_dim": [8, 8]}, "expected one width of the context"),
                            ({"_class_name": "UNet2DModel"}, "expected a UNet2DConditionModel, found 'UNet2DModel'"),
                            ({}, r"has no diffusion_pytorch_model\.safetensors")):
        path.write_text(json.dumps({**config, **change}), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            PretrainedBase.open(str(tmp_path))
    with pytest.raises(UserError, match=r"expected the config\.json of a UNet2DConditionModel"):
        PretrainedBase.open(str(folder / "scheduler"))
    with pytest.raises(UserError, match="lora_targets: expected endings of names of linear layers"):
        make(folder, lora=LoraShape(2, 2.0, ("no_such_layer",)))


def test_tokens_start_from_what_a_text_encoder_reads(folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: row for row, word in enumerate(words)}), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")).save_pretrained(tmp_path / "tokenizer")
    torch.manual_seed(0)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(words), hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1,
                                        num_attention_heads=2, max_position_embeddings=20, bos_token_id=len(words) - 2,
                                        eos_token_id=len(words) - 1, pad_token_id=len(words) - 1))
    text.save_pretrained(tmp_path / "text_encoder")
    vectors = read_text_vectors(str(tmp_path), ["early embryo", "late", ""])
    alone = read_text_vectors(str(tmp_path), ["late"])
    assert vectors.shape == (3, WIDTH) and torch.allclose(vectors[1:2], alone, atol=1e-6)  # padding does not count
    assert not torch.allclose(vectors[0], vectors[1])
    network = make(folder)
    network.set_tokens(vectors)
    tokens = network.class_tokens(torch.tensor([0, 1, 2])).reshape(3, 4, WIDTH)
    assert torch.equal(tokens, vectors[:, None].expand(3, 4, WIDTH))
    with pytest.raises(UserError, match="text_encoder: expected a folder with text_encoder and tokenizer of CLIP"):
        read_text_vectors(str(folder), ["late"])
