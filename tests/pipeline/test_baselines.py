"""The baselines: a GAN that trains, resumes and is evaluated by the same code, and real images under augmentation."""

import csv
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from workspace import Workspace, read_rows

from config.errors import UserError
from dataset.decoding import decode_image, read_png_text
from dataset.images import write_png
from tools import augment_real, sample_gan, train_gan
from tools.diffusion.gan_training import WEIGHTS_NAME
from tools.diffusion.project import Project
from tools.evaluation.assess import evaluate_folder
from tools.runtime.checkpoints import list_resume_checkpoints, read_checkpoint
from tools.runtime.resume import ResumeState, Saving


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
    resumed, half_a_row = tmp_path / "gan", '{"step": 99, "crit'
    beyond = json.dumps({"step": 6, "critic_loss": -1.0, "generator_loss": -1.0}) + "\n"
    for steps, left in ((5, beyond + half_a_row), (9, half_a_row)):  # what a training killed after its checkpoint leaves
        train_gan.main(workspace.arguments(*of_gan(resumed, steps=steps)))
        with (resumed / "metrics.jsonl").open("a", encoding="utf-8") as log:
            log.write(left)
    train_gan.main(workspace.arguments(*of_gan(resumed, steps=12)))
    states = [read_checkpoint(list_resume_checkpoints(folder / "training_state")[0]) for folder in (gan, resumed)]
    assert states[0][1] == states[1][1] and states[0][1]["step"] == 12
    assert all(torch.equal(tensor, states[1][0][name]) for name, tensor in states[0][0].items())
    unbroken, gone_on = read_rows(gan), read_rows(resumed)
    assert [row["step"] for row in unbroken] == [2, 4, 6, 8, 10, 12]
    assert all(np.isfinite(list(row.values())).all() for row in unbroken)
    assert [row["step"] for row in gone_on] == [2, 4, 5, 6, 8, 9, 10, 12]  # the last step of each call has a row
    assert [row for row in gone_on if row["step"] not in (5, 9)] == unbroken
    with pytest.raises(UserError, match="belongs to a training with other settings or images"):
        train_gan.main([*workspace.arguments(*of_gan(tmp_path / "gan", steps=13)), "--set", "gan_params.lr=0.1"])


def test_a_training_killed_after_its_last_checkpoint_has_its_weights(
    workspace: Workspace, gan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = workspace.arguments(*of_gan(tmp_path / "gan", steps=12))
    save = ResumeState.save

    def save_and_die(state: ResumeState, saving: Saving) -> None:
        save(state, saving)
        if state.step == 12:
            raise SystemExit(137)

    monkeypatch.setattr(ResumeState, "save", save_and_die)
    with pytest.raises(SystemExit):
        train_gan.main(arguments)
    train_gan.main(arguments)  # nothing is left to do
    train_gan.main(workspace.arguments(*of_gan(tmp_path / "gan", steps=9)))  # nor is it if fewer steps are asked for
    assert "12 of 9 steps are done" in capsys.readouterr().out
    made, wanted = (read_checkpoint(folder / WEIGHTS_NAME) for folder in (tmp_path / "gan", gan))
    assert made[1]["step"] == wanted[1]["step"] == 12
    assert all(torch.equal(tensor, made[0][name]) for name, tensor in wanted[0].items())


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
    evaluation = evaluate_folder(config, Project.open(config), tmp_path / "drawn", device=torch.device("cpu"))
    (gap,) = [row for row in evaluation.rows if row.metric.startswith("KD[vae") and row.comparison == "model_gap"
              and row.class_name == "all"]
    assert gap.value is not None and np.isfinite(gap.value)
    assert evaluation.provenance["num_images"]["synthetic"] == 40
    assert gap.n_synthetic == gap.n_real == len(Project.open(config).images("val"))  # sets of equal size


def test_a_rerun_draws_the_batch_of_a_missing_image_alone(workspace: Workspace, gan: Path, tmp_path: Path) -> None:
    def draw() -> dict[str, int]:
        sample_gan.main([*workspace.arguments(*of_gan(gan, steps=12), "sample_params.batch_size=3",
                                              "sample_params.num_images=null", "sample_params.per_class=6"),
                         "--output", str(tmp_path)])
        return {path.name: path.stat().st_mtime_ns for path in sorted((tmp_path / "images").iterdir())}

    first = draw()
    content = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(first) == 12 and draw() == first
    (tmp_path / "images/class0_000004.png").unlink()
    second = draw()
    assert [name for name in first if second[name] != first[name]] == [f"class0_{index:06d}.png" for index in (3, 4, 5)]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == content


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


@dataclass(frozen=True)
class FlatImages:
    """A table of flat images with a small mark on their left, and the pixels by name. No two marks are equally bright."""

    overrides: tuple[str, ...]
    pixels: Mapping[str, np.ndarray]

    def find(self, image: np.ndarray) -> str:
        """The name of the image whose mark stands out most alike."""
        def prominence(pixels: np.ndarray) -> float:
            return float(np.log(pixels.max() - float(pixels[0, 0])))

        return min(self.pixels, key=lambda name: abs(prominence(self.pixels[name]) - prominence(image)))


MARK = (slice(14, 17), slice(5, 8))
TRAINING = {0: ["image0", "image2", "image4", "image6"], 1: ["image1", "image3"]}


@pytest.fixture
def flat_images(tmp_path: Path) -> FlatImages:
    """Six training images of two classes, and one of class 1 for validation and for the test."""
    pixels, lines = {}, ["NAME,LABEL,SPLIT"]
    for index in range(8):
        level = 40 + 5 * index
        pixels[f"image{index}"] = np.full((32, 32), level, dtype=np.uint8)
        pixels[f"image{index}"][MARK] = level + round(25 * 1.3**index)
        write_png(tmp_path / f"flat/image{index}.png", pixels[f"image{index}"])
        lines.append(f"image{index}.png,{index % 2},{ {5: 'val', 7: 'test'}.get(index, 'train') }")
    (tmp_path / "flat.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = {"csv_file": tmp_path / "flat.csv", "root_dir": tmp_path / "flat", "image_column": "NAME",
             "label_column": "LABEL", "split_column": "SPLIT", "group_column": "null"}
    return FlatImages((*(f"dataset_params.params.{key}={value}" for key, value in table.items()),
                       "dataset_params.symmetries=[identity,mirror]", "dataset_params.symmetry_conditioning=false"), pixels)


def test_augmented_real_images_are_mild_changes_of_their_class_s_training_images_equally_often(
    workspace: Workspace, flat_images: FlatImages, tmp_path: Path
) -> None:
    arguments = [*workspace.arguments("sample_params.num_images=null", "sample_params.per_class=26", *flat_images.overrides),
                 "--output", str(tmp_path / "real")]
    augment_real.main(arguments)
    assert (tmp_path / "real/PATIENT_DATA.txt").is_file()
    with (tmp_path / "real/manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["0"] * 26 + ["1"] * 26
    assert [row["IMAGE_NAME"] for row in rows] == sorted(path.name for path in (tmp_path / "real/images").iterdir())

    sources: dict[int, Counter[str]] = {0: Counter(), 1: Counter()}
    changes = []
    for row in rows:
        path = tmp_path / "real/images" / row["IMAGE_NAME"]
        assert set(read_png_text(path)) == {"Note"}  # no mark of synthetic images
        image = decode_image(path).astype(float)
        name = flat_images.find(image)
        sources[int(row["label"])][name] += 1
        changes.append(measure_change(flat_images.pixels[name].astype(float), image))
    for label, names in TRAINING.items():
        assert sorted(sources[label]) == names
        assert max(sources[label].values()) - min(sources[label].values()) <= 1
    brightness, contrast, down, right, mirrored = (np.array(values) for values in zip(*changes, strict=True))
    # Brightness on [-1, 1] changes by as much as it differs between the training images. A pixel's rounding is 1/255 there
    # and 1/25 at most of a mark; 0.04 of 32 px is one pixel.
    spread = np.std([flat_images.pixels[name].mean() / 127.5 for names in TRAINING.values() for name in names])
    for values, most, rounding in ((brightness, spread, 1 / 255), (contrast, 0.1, 2 / 25)):
        assert np.abs(values).max() <= most + rounding and values.min() < -0.7 * most and values.max() > 0.7 * most
    assert set(down) == set(right) == {-1, 0, 1} and set(mirrored) == {True, False}
    with pytest.raises(UserError, match="expected an empty folder or none"):
        augment_real.main(arguments)


def measure_change(before: np.ndarray, after: np.ndarray) -> tuple[float, float, int, int, bool]:
    """Brightness on [-1, 1], relative contrast, shift down and right in pixels, and whether it is mirrored first."""
    background = after[0, 0]
    inside = after != background
    assert inside.sum() == 9 and len(np.unique(after)) == 2  # nothing is cut out, nothing else is uncovered
    top, left = (int(np.flatnonzero(inside.any(axis=axis))[0]) for axis in (1, 0))
    mirrored = left > 15
    contrast = (after[inside][0] - background) / (before[MARK][0, 0] - before[0, 0]) - 1
    begin = 32 - MARK[1].stop if mirrored else MARK[1].start
    return (after.mean() - before.mean()) / 127.5, contrast, top - MARK[0].start, left - begin, mirrored
