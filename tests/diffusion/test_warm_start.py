"""What a training takes over from the weights of another run: everything of the same name, by name, and nothing silently."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from config.errors import UserError
from config.load import build_config, config_to_dict
from config.schema import Config
from models.autoencoder import LatentStatistics
from tools.diffusion.networks import make_unet
from tools.diffusion.trained_images import TRAINED_KEY
from tools.diffusion.warm_start import (
    StartRecord,
    StartWeights,
    describe_scale,
    find_weights,
    load_start,
    read_start,
    require_same_kind,
)
from tools.runtime.checkpoints import write_checkpoint

STATISTICS = LatentStatistics(mean=(0.0, 1.0, 0.0, 0.0), std=(1.0, 1.0, 2.0, 1.0), gray=True)


def make_config(*, seed: int = 1, classes: tuple[str, ...] = ("early", "late"), **table: Any) -> Config:
    return build_config({
        "dataset_params": {"params": {"root_dir": "images", "csv_file": "t.csv", "class_names": list(classes), **table},
                           "condition_types": ["class", "context_class"]},
        "train_params": {"task_name": "run", "seed": seed}, "autoencoder_params": {"pretrained": "vae"},
        "unet_params": {"channels": [8, 16], "attention": [False, True], "num_layers": 1, "num_heads": 2,
                        "time_embedding_dim": 16, "context_dim": 8, "norm_groups": 4},
    }, source="test")


def start_of(config: Config, **changes: Any) -> StartWeights:
    record, tensors = StartRecord("0" * 64, 7, ("a",)), dict(make_unet(config).state_dict())
    start = StartWeights(Path("w.safetensors"), record, tensors, config, STATISTICS, "vae")
    return replace(start, **changes)


def require(start: StartWeights, config: Config, *, vae: str = "vae", other_vae: bool = False) -> None:
    require_same_kind(start, config.dataset_params, config.unet_params, config.diffusion_params, vae_sha256=vae,
                      other_vae=other_vae)


def test_the_same_classes_give_the_source_bit_for_bit() -> None:
    source, own = make_config(seed=1), make_config(seed=2)
    start, network = start_of(source), make_unet(own)
    require(start, own)
    lines = load_start(network, start, own.dataset_params, other_vae=False)
    assert lines == ["starting from w.safetensors (step 7)", "classes: taken over early, late"]
    assert all(torch.equal(tensor, start.tensors[name]) for name, tensor in network.state_dict().items())
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([1, 500, 999])
    assert torch.equal(network(x, t, torch.tensor([0, 1, 2])), make_unet(source)(x, t, torch.tensor([0, 1, 2])))


def test_rows_of_classes_follow_their_names() -> None:
    source, own = make_config(classes=("early", "late")), make_config(seed=2, classes=("late", "hatched", "early"))
    start, network = start_of(source), make_unet(own)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lines = load_start(network, start, own.dataset_params, other_vae=False)
    assert lines[1:] == ["classes: taken over late, early; new hatched"]
    for name in ("class_embedding.weight", "context_embedding.weight"):
        rows, theirs = network.state_dict()[name], start.tensors[name]
        assert torch.equal(rows[[0, 2, 3]], theirs[[1, 0, 2]])  # late, early and the null label
        assert torch.equal(rows[1], fresh[name][1])
    fewer = make_unet(narrow := make_config(classes=("late",)))
    lines = load_start(fewer, start_of(own), narrow.dataset_params, other_vae=False)
    assert lines[1] == "classes: taken over late; left behind hatched, early"


def test_conditions_follow_their_names_and_levels() -> None:
    day, clinic = {"levels": ["3", "5"], "kind": "ordinal"}, ["north", "south"]
    source = make_config(conditions={"DAY": day, "CLINIC": clinic})
    own = make_config(seed=2, conditions={"CLINIC": ["south", "east"], "DAY": day, "GRADE": ["a", "b"]})
    start, network = start_of(source), make_unet(own)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lines = load_start(network, start, own.dataset_params, other_vae=False)
    assert lines[2:] == ["condition CLINIC: taken over south; new east; left behind north", "condition DAY: taken over 3, 5",
                         "condition GRADE: new"]
    for table in ("condition_embeddings", "condition_contexts"):
        rows = network.state_dict()
        assert torch.equal(rows[f"{table}.0.weight"][[0, 2]], start.tensors[f"{table}.1.weight"][[1, 2]])  # south and null
        assert torch.equal(rows[f"{table}.0.weight"][1], fresh[f"{table}.0.weight"][1])
        assert all(torch.equal(rows[f"{table}.1.{part}"], start.tensors[f"{table}.0.{part}"])
                   for part in ("first", "steps", "null"))
        assert torch.equal(rows[f"{table}.2.weight"], fresh[f"{table}.2.weight"])
    other = make_config(conditions={"DAY": {"levels": ["3", "5", "6"], "kind": "ordinal"}})
    assert load_start(make_unet(other), start, other.dataset_params, other_vae=False)[2:] == ["condition DAY: new"]


def test_views_are_matched_by_their_names() -> None:
    def with_views(views: list[str], seed: int) -> Config:
        raw = config_to_dict(make_config(seed=seed))
        raw["dataset_params"] |= {"symmetries": views, "symmetry_conditioning": True}
        return build_config(raw, source="test")

    source, own = with_views(["identity", "mirror", "flip"], 1), with_views(["identity", "flip"], 2)
    start, network = start_of(source), make_unet(own)
    assert load_start(network, start, own.dataset_params, other_vae=False)[2] == (
        "condition the view: taken over identity, flip; left behind mirror")
    assert torch.equal(network.state_dict()["condition_embeddings.0.weight"],
                       start.tensors["condition_embeddings.0.weight"][[0, 2]])


def test_other_networks_and_processes_are_refused_key_by_key() -> None:
    raw = config_to_dict(make_config())
    raw["unet_params"] |= {"channels": [8, 24], "num_layers": 2}
    raw["diffusion_params"]["prediction_type"] = "epsilon"
    with pytest.raises(UserError) as error:
        require(start_of(build_config(raw, source="test")), make_config())
    assert str(error.value).startswith(
        "train_params.start_from: w.safetensors is of another network: unet_params.channels is [8, 24] there, [8, 16] here; "
        "unet_params.num_layers is 2 there, 1 here; ")
    assert "diffusion_params.prediction_type is epsilon there, v here; set these keys" in str(error.value)


def test_another_vae_is_refused_or_leaves_the_outer_layers_new() -> None:
    source, own = make_config(), make_config(seed=2)
    start, network = start_of(source), make_unet(own)
    with pytest.raises(UserError, match=r"latents of another VAE \(vae\); .*start_from_other_vae: true"):
        require(start, own, vae="another")
    raw = config_to_dict(own)
    raw["dataset_params"]["z_channels"] = 6
    wider = build_config(raw, source="test")
    with pytest.raises(UserError, match="z_channels is 4 there, 6 here"):
        require(start, wider, vae="another")
    for config in (own, wider):
        require(start, config, vae="another", other_vae=True)
        network = make_unet(config)
        fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        assert load_start(network, start, config.dataset_params, other_vae=True)[-1].startswith("first and last layers: new")
        for name, tensor in network.state_dict().items():
            outer = name.startswith(("conv_in.", "norm_out.", "conv_out."))
            assert torch.equal(tensor, fresh[name] if outer else start.tensors[name]), name


def test_the_difference_in_scale_is_said() -> None:
    start = start_of(make_config())
    new = LatentStatistics(mean=(0.5, 1.0, 1.0, 0.0), std=(2.0, 1.0, 1.0, 1.0), gray=True)
    assert describe_scale(start, new) == (
        "latent statistics: of these images; their means differ from the source's by up to 0.5 standard deviations, their "
        "standard deviations by factors of 0.5 to 2")
    assert "another VAE's" in describe_scale(start, LatentStatistics(mean=(0.0,), std=(1.0,), gray=True))


def test_weights_that_cannot_be_started_from_are_refused_by_name(tmp_path: Path) -> None:
    config, path = make_config(), tmp_path / "w.safetensors"
    values = {"config": config_to_dict(config), "latent_statistics": vars(STATISTICS), "step": 3,
              "autoencoder_sha256": "vae", TRAINED_KEY: ["a", "b"]}
    write_checkpoint(path, make_unet(config).state_dict(), values)
    start = read_start(str(path))
    assert start.record == StartRecord(start.record.sha256, 3, ("a", "b")) and start.config == config
    write_checkpoint(path, {}, {key: value for key, value in values.items() if key != TRAINED_KEY})
    with pytest.raises(UserError, match=r"written by version 0\.1, which did not record the images"):
        read_start(str(path))
    write_checkpoint(path, {}, {"step": 3})
    with pytest.raises(UserError, match="holds the state to resume a training from; name the run's best weights"):
        read_start(str(path))
    with pytest.raises(UserError, match=r"expected a file of weights or the folder of a run, found no .*config\.yaml"):
        find_weights(str(tmp_path))
    with pytest.raises(UserError, match="checkpoint cannot be read"):
        read_start(str(tmp_path / "none.safetensors"))
