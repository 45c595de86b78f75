"""Sampling: each image is a function of its request, is drawn once, and carries where it comes from."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from workspace import CLASS_NAMES, Workspace, save_autoencoder

import sample_ddpm_class_cond
from config.errors import UserError
from dataset.decoding import decode_image, read_png_text
from dataset.Embryo_loader import Embryo_loader
from dataset.storage import hash_file
from tools.diffusion.generation import requested_counts
from tools.diffusion.samples import MANIFEST_COLUMNS
from tools.diffusion.trained_model import read_weights
from tools.runtime.checkpoints import list_resume_checkpoints, read_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def drawn(workspace: Workspace, reference: Path) -> Path:
    """Five images of each class of the reference run."""
    output = workspace.root / "drawn"
    sample(workspace, output)
    assert reference.is_dir()
    return output


def sample(workspace: Workspace, output: Path, *overrides: str, extra: tuple[str, ...] = ("--per-class", "5")) -> None:
    sample_ddpm_class_cond.main([*workspace.arguments(*overrides), "--no-metrics", "--output", str(output), *extra])


def read_manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_pixels(folder: Path) -> np.ndarray:
    return np.stack([decode_image(folder / "images" / row["IMAGE_NAME"]) for row in read_manifest(folder)])


def test_manifest_marks_and_grids(drawn: Path, reference: Path) -> None:
    rows = read_manifest(drawn)
    columns = ("IMAGE_NAME", "label", "class_name", "seed", "sampler", "steps", "guidance_scale", "checkpoint_sha256",
               "rejected_copies")
    assert tuple(rows[0]) == MANIFEST_COLUMNS == columns
    assert [row["label"] for row in rows] == ["0"] * 5 + ["1"] * 5
    assert [row["IMAGE_NAME"] for row in rows][4:6] == ["class0_000004.png", "class1_000000.png"]
    digest = hash_file(reference / "checkpoints" / "ddpm_ckpt.safetensors")
    for row in rows:
        assert row["class_name"] == CLASS_NAMES[int(row["label"])]
        assert (row["seed"], row["sampler"], row["steps"], row["guidance_scale"]) == ("0", "dpm-solver++", "3", "1")
        assert row["checkpoint_sha256"] == digest
        assert row["rejected_copies"] == ""
        text = read_png_text(drawn / "images" / row["IMAGE_NAME"])
        assert "BlastDiffusion" in text["Synthetic"]
        assert all(text[name] == row[name] for name in ("label", "seed", "sampler", "steps", "checkpoint_sha256"))
    pixels = read_pixels(drawn)
    assert pixels.shape == (10, 32, 32) and pixels.dtype == np.uint8
    assert len({image.tobytes() for image in pixels}) == 10
    for label in (0, 1):
        grid = decode_image(drawn / f"grid_class{label}.png")
        for place, image in enumerate(pixels[5 * label:5 * label + 5]):  # below a title, each pixel four times as wide
            assert np.array_equal(grid[34:162:4, 130 * place:130 * place + 128:4], image)
        assert grid[:34].min() < 50  # letters
        assert f"class {CLASS_NAMES[label]}" in read_png_text(drawn / f"grid_class{label}.png")["Synthetic"]


def test_the_manifest_is_a_table_for_the_loader(drawn: Path) -> None:
    images = Embryo_loader(drawn / "manifest.csv", drawn / "images", 1, class_names=CLASS_NAMES, image_size=32,
                           label_column="label")
    assert [record.label for record in images.records] == [0] * 5 + [1] * 5
    assert np.array_equal(np.rint((images[3][0][0].numpy() + 1) * 127.5), read_pixels(drawn)[3])


def test_a_rerun_draws_nothing_and_mends_what_is_missing_or_damaged(workspace: Workspace, drawn: Path) -> None:
    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (drawn / "images").iterdir()}

    content = {path.name: path.read_bytes() for path in (drawn / "images").iterdir()}
    before = times()
    sample(workspace, drawn)
    assert times() == before

    gone, cut = drawn / "images" / "class0_000002.png", drawn / "images" / "class1_000003.png"
    gone.unlink()
    cut.write_bytes(content[cut.name][:-40])
    sample(workspace, drawn)
    assert {path.name: path.read_bytes() for path in (drawn / "images").iterdir()} == content


def test_damage_to_pixels_with_whole_marks_is_mended(workspace: Workspace, drawn: Path) -> None:
    path = drawn / "images" / "class0_000001.png"
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[content.index(b"IDAT") + 20] ^= 4
    path.write_bytes(damaged)
    sample(workspace, drawn)
    assert path.read_bytes() == content


def test_other_settings_are_never_mixed_into_a_folder(workspace: Workspace, drawn: Path, tmp_path: Path) -> None:
    output = tmp_path / "other"
    shutil.copytree(drawn, output)
    sample(workspace, output, "sample_params.guidance_interval=[0.2,1.0]", "sample_params.guidance_scale=3")
    assert {row["guidance_scale"] for row in read_manifest(output)} == {"3"}
    assert {read_png_text(path)["guidance_scale"] for path in (output / "images").iterdir()} == {"3"}
    with pytest.raises(UserError, match=r"holds images that were not asked for now: class0_000003\.png.*another --output"):
        sample(workspace, output, extra=("--per-class", "3"))
    (output / "images" / "stranger.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"stranger\.jpg"):
        sample(workspace, output)


def test_an_image_does_not_depend_on_how_many_are_asked_for(workspace: Workspace, drawn: Path, tmp_path: Path) -> None:
    sample(workspace, tmp_path / "few", extra=("--per-class", "2"))
    few, many = read_pixels(tmp_path / "few").astype(int), read_pixels(drawn).astype(int)
    assert np.abs(few - many[[0, 1, 5, 6]]).max() <= 1  # 8-bit rounding of values equal to 1e-4


def test_the_batch_size_moves_few_pixels_and_those_by_one_gray_level(
    workspace: Workspace, reference: Path, tmp_path: Path
) -> None:
    pixels = []
    for batch_size in (1, 7, 40):
        sample(workspace, tmp_path / str(batch_size), f"sample_params.batch_size={batch_size}", "sample_params.num_steps=8",
               "sample_params.guidance_scale=3", extra=("--per-class", "20"))
        pixels.append(read_pixels(tmp_path / str(batch_size)).astype(int))
    assert reference.is_dir() and pixels[0].shape == (40, 32, 32)
    assert pixels[0].std(axis=(1, 2)).min() > 2 and pixels[0].std(axis=0).mean() > 2  # there is something to round
    for others in pixels[1:]:
        moved = np.abs(others - pixels[0])
        assert moved.max() <= 1 and np.mean(moved > 0) <= 1e-3


def test_the_seed_changes_every_image(workspace: Workspace, drawn: Path, tmp_path: Path) -> None:
    sample(workspace, tmp_path / "seeded", extra=("--per-class", "5", "--seed", "7"))
    assert {row["seed"] for row in read_manifest(tmp_path / "seeded")} == {"7"}
    assert (read_pixels(tmp_path / "seeded") != read_pixels(drawn)).any(axis=(1, 2)).all()


def test_by_default_as_many_as_training_images_at_their_prior(workspace: Workspace, reference: Path, tmp_path: Path) -> None:
    config = workspace.config("sample_params.num_images=null")
    assert requested_counts(config.sample_params, [95, 43]) == [95, 43]
    config = workspace.config("sample_params.num_images=10")
    assert requested_counts(config.sample_params, [95, 43]) == [7, 3]
    sample(workspace, tmp_path, "sample_params.num_images=10", extra=())
    assert [row["label"] for row in read_manifest(tmp_path)] == ["0"] * 7 + ["1"] * 3
    with pytest.raises(UserError, match="num_images 1 leaves a class without an image"):
        sample(workspace, tmp_path / "one", "sample_params.num_images=1", extra=())
    assert reference.is_dir()


def test_checkpoints_that_cannot_be_used_are_refused(workspace: Workspace, reference: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.safetensors: checkpoint cannot be read .*train first"):
        sample(workspace, tmp_path, extra=("--checkpoint", str(tmp_path / "absent.safetensors")))
    named = reference / "checkpoints" / "ddpm_ckpt.safetensors"
    sample(workspace, tmp_path / "named", extra=("--checkpoint", str(named), "--per-class", "1"))
    with pytest.raises(UserError, match=r"trained with other unet_params than the config gives: expected .*\[16, 32\]"):
        sample(workspace, tmp_path, "unet_params.channels=[16,16]", extra=("--checkpoint", str(named)))
    with pytest.raises(UserError, match="trained with other diffusion_params"):
        sample(workspace, tmp_path, "diffusion_params.prediction_type=epsilon", extra=("--checkpoint", str(named)))
    with pytest.raises(UserError, match=r"trained on the classes \['arrested', 'blastocyst'\], the config names"):
        sample(workspace, tmp_path, "dataset_params.params.class_names=[blastocyst,arrested]",
               extra=("--checkpoint", str(named)))


def test_another_autoencoder_than_the_training_one_is_refused(workspace: Workspace, drawn: Path, tmp_path: Path) -> None:
    save_autoencoder(tmp_path / "other_vae", seed=9)
    with pytest.raises(UserError, match=r"trained on the latents of another autoencoder than .*other_vae; expected "):
        sample(workspace, tmp_path / "out", f"autoencoder_params.pretrained={tmp_path / 'other_vae'}")
    assert drawn.is_dir()


def test_with_metrics_the_evaluation_lies_beside_the_images(classifiers: Workspace, reference: Path) -> None:
    sample_ddpm_class_cond.main(classifiers.arguments())
    folder = reference / "samples"
    assert (folder / "evaluation.xlsx").is_file()
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["provenance"]["num_images"] == {"synthetic": 36, "test": 32, "train": 138}
    assert evaluation["provenance"]["checkpoint_sha256"] == hash_file(reference / "checkpoints" / "ddpm_ckpt.safetensors")


def test_a_resume_checkpoint_is_drawn_from_with_the_scale_of_the_best_weights(workspace: Workspace, reference: Path) -> None:
    newest = list_resume_checkpoints(reference / "checkpoints")[0]
    _, best = read_checkpoint(reference / "checkpoints/ddpm_ckpt.safetensors")
    weights, values = read_weights(newest, "ddpm_ckpt.safetensors")
    assert values == best
    expected = read_checkpoint(newest)[0]
    assert all(torch.equal(weights[name], expected[f"ema.{name}"]) for name in weights)
    sample(workspace, workspace.root / "drawn_from_resume", extra=("--per-class", "2", "--checkpoint", str(newest)))
    assert {row["checkpoint_sha256"] for row in read_manifest(workspace.root / "drawn_from_resume")} == {hash_file(newest)}
    lonely = workspace.root / "lonely" / newest.name
    lonely.parent.mkdir()
    shutil.copy(newest, lonely)
    with pytest.raises(UserError, match="is a resume checkpoint; to sample from it, expected the run's"):
        sample(workspace, workspace.root / "not_drawn", extra=("--checkpoint", str(lonely)))


def test_the_example_of_the_readme_gives_two_images_of_a_class(reference: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "demo/run" in example
    found: dict[str, Any] = {}
    exec(example.replace("demo/run", str(reference)), found)  # our own page
    images = found["images"]
    assert images.dtype == np.uint8 and images.shape == (2, 32, 32, 1)
    assert not np.array_equal(images[0], images[1])
