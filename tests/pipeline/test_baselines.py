"""The baselines: a GAN that trains, resumes and is evaluated by the same code, and real images under augmentation."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from workspace import Workspace

from config.errors import UserError
from dataset.decoding import decode_image, read_png_text
from tools import augment_real, sample_gan, train_gan
from tools.runtime.assessment import evaluate_folder
from tools.runtime.checkpoints import list_resume_checkpoints, read_checkpoint
from tools.runtime.data import open_images


def of_gan(folder: Path, *, steps: int) -> tuple[str, ...]:
    return (f"gan_params.output={folder}", f"gan_params.max_steps={steps}", "gan_params.width=8", "gan_params.batch_size=8")


def pixels_of(folder: Path) -> np.ndarray:
    return np.stack([decode_image(path).astype(float) for path in sorted((folder / "images").iterdir())])


@pytest.fixture(scope="module")
def gan(workspace: Workspace) -> Path:
    """A GAN of twelve steps."""
    folder = workspace.root / "gan"
    train_gan.main(workspace.arguments(*of_gan(folder, steps=12)))
    return folder


def test_a_resumed_training_equals_an_unbroken_one(workspace: Workspace, gan: Path, tmp_path: Path) -> None:
    for steps in (5, 12):
        train_gan.main(workspace.arguments(*of_gan(tmp_path / "gan", steps=steps)))
    states = [read_checkpoint(list_resume_checkpoints(folder / "training_state")[0]) for folder in (gan, tmp_path / "gan")]
    assert states[0][1] == states[1][1] and states[0][1]["step"] == 12
    assert all(torch.equal(tensor, states[1][0][name]) for name, tensor in states[0][0].items())
    rows = [json.loads(line) for line in (gan / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12] and all(np.isfinite(row["critic_loss"]) for row in rows)
    with pytest.raises(UserError, match="belongs to a training with other settings or images"):
        train_gan.main([*workspace.arguments(*of_gan(tmp_path / "gan", steps=13)), "--set", "gan_params.lr=0.1"])


def test_its_images_are_functions_of_their_address_and_pass_the_same_evaluation(
    workspace: Workspace, gan: Path, tmp_path: Path
) -> None:
    for name, size in (("drawn", 5), ("again", 12)):
        sample_gan.main([*workspace.arguments(*of_gan(gan, steps=12), f"sample_params.batch_size={size}",
                                              "sample_params.num_images=null", "sample_params.per_class=20"),
                         "--output", str(tmp_path / name)])
    assert np.abs(pixels_of(tmp_path / "drawn") - pixels_of(tmp_path / "again")).max() <= 1
    with (tmp_path / "drawn/manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["sampler"], row["steps"], row["guidance_scale"]) for row in rows} == {("gan", "1", "1")}
    assert [row["label"] for row in rows].count("1") == 20
    config = workspace.config("evaluation_params.encoders=[vae]", "evaluation_params.judge_path=null",
                              "evaluation_params.real_split=val")
    evaluation = evaluate_folder(config, tmp_path / "drawn", device=torch.device("cpu"))
    assert any(row.metric == "KD[vae:grid8]" or row.metric.startswith("KD[vae") for row in evaluation.rows if row.value)


def test_what_is_no_such_gan_is_refused(workspace: Workspace, gan: Path, reference: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a GAN of 2 classes .*width 16, found another"):
        sample_gan.main(workspace.arguments(*of_gan(gan, steps=12), "gan_params.width=16"))
    other = tmp_path / "gan"
    other.mkdir()
    (other / "generator.safetensors").write_bytes((reference / "checkpoints/ddpm_ckpt.safetensors").read_bytes())
    with pytest.raises(UserError, match="found another; give the config that it was trained with"):
        sample_gan.main(workspace.arguments(*of_gan(other, steps=12)))
    with pytest.raises(UserError, match="num_images 1 leaves a class without an image"):
        sample_gan.main(workspace.arguments(*of_gan(gan, steps=12), "sample_params.num_images=1"))
    with pytest.raises(UserError, match=r"4 px times a power of two, .*found 24"):
        train_gan.main(workspace.arguments(*of_gan(tmp_path / "g", steps=1), "dataset_params.params.image_size=24"))


def test_augmented_real_images_stay_near_their_originals_and_carry_no_mark_of_synthetic_ones(
    workspace: Workspace, tmp_path: Path
) -> None:
    arguments = [*workspace.arguments("sample_params.num_images=null", "sample_params.per_class=6"),
                 "--output", str(tmp_path / "real")]
    augment_real.main(arguments)
    made = pixels_of(tmp_path / "real")
    assert made.shape[0] == 12 and (tmp_path / "real/PATIENT_DATA.txt").is_file()
    assert set(read_png_text(tmp_path / "real/images/class0_000000.png")) == {"Note"}
    images = open_images(workspace.config(), "train")
    thumbnails = {label: [np.kron(image.numpy()[0].reshape(8, 4, 8, 4).mean(axis=(1, 3)), np.ones(1))
                          for index, record in enumerate(images.records) if record.label == label
                          for image in (images[index][0], images[index][0].flip(-1))] for label in (0, 1)}
    for number, image in enumerate(made):
        small = image.reshape(8, 4, 8, 4).mean(axis=(1, 3))
        best = max(np.corrcoef(small.ravel(), other.ravel())[0, 1] for other in thumbnails[number // 6])
        assert best > 0.8
    with pytest.raises(UserError, match="expected an empty folder or none"):
        augment_real.main(arguments)
