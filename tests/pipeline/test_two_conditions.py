"""Two conditions and the view as inputs, from the table through training to samples that are a table again."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from workspace import Workspace, forget_accelerator

import sample_ddpm_class_cond
import train_ddpm_cond
from config.errors import UserError
from config.schema import SampleParams
from dataset.decoding import decode_image, read_png_text
from dataset.Embryo_loader import Embryo_loader
from models.classifier import WEIGHTS_FILE
from tools import evaluate
from tools.diffusion import generation, samples
from tools.diffusion.conditions import ConditionPrior, condition_levels
from tools.diffusion.project import Project
from tools.diffusion.trained_model import TrainedModel, load_trained_model
from tools.evaluation import sweeping
from tools.make_phantoms.__main__ import PhantomRequest, write_phantoms
from tools.runtime import checkpoints
from tools.train_encoder import __main__ as train_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def overrides(workspace: Workspace) -> list[str]:
    """Keys that point the workspace's config at phantoms of two focal planes, with the view as a third condition."""
    folder = workspace.root / "planes"
    write_phantoms(folder, PhantomRequest(num_images=60, image_size=32, seed=3, focal_planes=2))
    return [
        workspace.task("planes"), f"dataset_params.params.csv_file={folder / 'annotations.csv'}",
        f"dataset_params.params.root_dir={folder / 'images'}", "dataset_params.params.conditions.FOCAL_PLANE=[0, 1]",
        "dataset_params.params.covariate_columns=[PATIENT_ID]", "dataset_params.condition_types=[class,context_class]",
        "dataset_params.symmetries=[identity,rotate_90,flip]", "dataset_params.symmetry_conditioning=true",
        "train_params.balanced_sampling=1",
    ]


@pytest.fixture(scope="module")
def trained(workspace: Workspace, overrides: list[str]) -> Path:
    train_ddpm_cond.main(workspace.arguments(*overrides))
    forget_accelerator()
    return workspace.run("planes")


@pytest.fixture
def model(workspace: Workspace, overrides: list[str], trained: Path) -> TrainedModel:
    config = workspace.config(*overrides)
    return load_trained_model(config, Project.open(config), trained / "checkpoints" / "ddpm_ckpt.safetensors", CPU)


def sample(workspace: Workspace, overrides: list[str], output: Path, *more: str) -> list[dict[str, str]]:
    """Draw without metrics and return the rows of the manifest."""
    forget_accelerator()
    sample_ddpm_class_cond.main([*workspace.arguments(*overrides, *more), "--output", str(output), "--no-metrics"])
    with (output / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_checkpoint_holds_names_levels_and_the_prior_of_the_data(
    workspace: Workspace, overrides: list[str], trained: Path
) -> None:
    """The run was balanced: what sampling draws from is the data nevertheless."""
    _, values = checkpoints.read_checkpoint(trained / "checkpoints" / "ddpm_ckpt.safetensors")
    records = Project.open(workspace.config(*overrides)).images("train").records
    classes = Counter(record.label for record in records)
    assert values["class_counts"] == [classes[0], classes[1]] and classes[0] > 1.3 * classes[1]
    assert values["condition_levels"] == {"FOCAL_PLANE": ["0", "1"]}
    counts = Counter((record.label, record.conditions) for record in records)
    prior = ConditionPrior.from_values(values["condition_counts"])
    assert {(c, levels): n for c, rows in enumerate(prior.counts) for levels, n in rows} == counts
    assert all(record.covariates == (record.group,) for record in records)


def test_every_row_of_the_conditions_trains(trained: Path, workspace: Workspace, overrides: list[str]) -> None:
    initial = train_ddpm_cond.make_unet(workspace.config(*overrides)).state_dict()
    found = checkpoints.read_newest_checkpoint(trained / "checkpoints")
    assert found is not None
    for kind in ("condition_embeddings", "condition_contexts"):
        for column, num_rows in enumerate((3, 3)):  # two planes and the null; three views, which have none
            name = f"{kind}.{column}.weight"
            assert initial[name].shape[0] == num_rows
            assert (found[0][f"model.{name}"] != initial[name]).any(dim=1).all(), name


def test_an_interrupted_run_of_conditions_equals_an_uninterrupted_one(
    workspace: Workspace, overrides: list[str], trained: Path
) -> None:
    best = trained / "checkpoints" / "ddpm_ckpt.safetensors"
    before, log = best.read_bytes(), (trained / "metrics.jsonl").read_bytes()
    (trained / "checkpoints" / "resume-00000012.safetensors").unlink()
    train_ddpm_cond.main(workspace.arguments(*overrides))
    assert best.read_bytes() == before and (trained / "metrics.jsonl").read_bytes() == log


def test_the_network_answers_to_the_view_and_sampling_tells_it_the_identity(model: TrainedModel) -> None:
    denoising = model.denoising
    rng = torch.Generator().manual_seed(0)
    network = denoising.network
    with torch.no_grad():  # twelve steps hardly move what starts at zero
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    x, timesteps, labels = torch.randn(3, 4, 8, 8, generator=rng)[:1], torch.tensor([400]), torch.tensor([0])
    with torch.no_grad():
        by_view = [network(x, timesteps, labels, torch.tensor([[1, view]])) for view in range(3)]
    assert min((by_view[i] - by_view[j]).abs().max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-3

    seen: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[3]))
    requests = [generation.ImageRequest(0, 0, (0,)), generation.ImageRequest(1, 4, (1,))]
    params = SampleParams(num_steps=2, guidance_scale=2.0)
    generation.draw_latents(denoising, requests, params=params, seed=0, batch_size=2)
    for conditions in seen:
        assert conditions.tolist() == [[0, 0], [1, 0], [2, 0], [2, 0]]  # null plane, but identity, in the other half


def test_one_condition_varies_alone_from_the_same_noise(model: TrainedModel) -> None:
    with torch.no_grad():
        for parameter in model.denoising.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    requests = [generation.ImageRequest(label, 3, (0,)) for label in (0, 1)]
    varied = generation.vary_condition(requests, 0, [0, 1])
    assert [(r.label, r.index, r.conditions) for r in varied] == [(0, 3, (0,)), (1, 3, (0,)), (0, 3, (1,)), (1, 3, (1,))]

    starts: list[torch.Tensor] = []
    handle = model.denoising.network.register_forward_pre_hook(lambda _, arguments: starts.append(arguments[0]))
    latents = generation.draw_latents(model.denoising, varied, params=SampleParams(num_steps=2), seed=0, batch_size=4)
    handle.remove()
    assert torch.equal(starts[0][0], starts[0][2]) and torch.equal(starts[0][1], starts[0][3])
    assert (latents[0] - latents[2]).abs().max() > 1e-3 and (latents[1] - latents[3]).abs().max() > 1e-3


def test_samples_follow_the_prior_and_are_a_table_of_the_same_conditions(
    workspace: Workspace, overrides: list[str], trained: Path, model: TrainedModel, tmp_path: Path
) -> None:
    rows = sample(workspace, overrides, tmp_path)
    expected = [model.condition_prior.draw(int(row["label"]), int(row["IMAGE_NAME"][7:13]), seed=0, fixed={})
                for row in rows]
    assert [row["FOCAL_PLANE"] for row in rows] == [str(levels[0]) for levels in expected]
    assert {row["FOCAL_PLANE"] for row in rows} == {"0", "1"} and list(rows[0])[-1] == "FOCAL_PLANE"
    data = Embryo_loader(tmp_path / "manifest.csv", tmp_path / "images", 1, image_size=32, label_column="label",
                         class_names=("arrested", "blastocyst"), split_fractions={"train": 1.0},
                         conditions={"FOCAL_PLANE": ("0", "1")})
    assert [record.conditions for record in data.records] == expected
    for label in (0, 1):
        path = tmp_path / f"grid_class{label}_FOCAL_PLANE.png"
        grid = decode_image(path)
        assert grid.shape[0] == 34 + 2 * 128 + 7 and grid.shape[1] > 8 * 128  # a title over two rows of eight
        assert grid[34:162, :20].min() < 50 and grid[169:, :20].min() < 50  # the level before each row
        assert read_png_text(path)["Synthetic"].endswith("; not tested for near-copies of training images")
    assert trained.is_dir()


def test_near_copies_in_a_grid_of_conditions_are_left_gray(
    workspace: Workspace, overrides: list[str], trained: Path, model: TrainedModel, tmp_path: Path
) -> None:
    config = workspace.config(*overrides)
    conditions = condition_levels(config.dataset_params.params)
    requests = generation.draw_conditions(generation.list_requests([3, 3]), model.condition_prior, seed=0)
    writer = samples.SampleWriter(tmp_path / "grids", requests, params=config.sample_params, class_names=model.class_names,
                                  checkpoint_sha256="abc", condition_levels=conditions)
    path = tmp_path / "grids/grid_class1_FOCAL_PLANE.png"
    sample_ddpm_class_cond.draw_condition_grids(model, writer, conditions, config.sample_params, None)
    before = decode_image(path)

    def find_gray_tile(position: int) -> tuple[int, int]:
        """Top and left of what withholding one image changes."""
        sample_ddpm_class_cond.draw_condition_grids(model, writer, conditions, config.sample_params,
                                                    lambda pixels: np.arange(len(pixels)) == position)
        after = decode_image(path)
        changed = np.argwhere((before != after).reshape(*before.shape[:2], -1).any(axis=2))
        (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
        assert bottom - top < 128 and right - left < 128  # one tile
        assert np.unique(after[top:bottom + 1, left:right + 1]).tolist() == [225]
        return int(top), int(left)

    first, below, beside = find_gray_tile(0), find_gray_tile(3), find_gray_tile(4)
    assert 128 <= below[0] - first[0] < 140 and below[1] == first[1]
    assert beside[0] == below[0] and 128 <= beside[1] - below[1] < 140
    assert read_png_text(path)["Synthetic"].endswith("; 1 near-copies of training images left gray")

    forget_accelerator()
    by_image = workspace.arguments(*overrides, "dataset_params.params.group_column=null")  # one patient is held out here
    sample_ddpm_class_cond.main([*by_image, "--per-class", "2", "--output", str(tmp_path / "drawn"), "--no-metrics",
                                 "--reject-copies"])
    drawn = read_png_text(tmp_path / "drawn/grid_class0_FOCAL_PLANE.png")["Synthetic"]
    assert drawn.endswith(" near-copies of training images left gray")
    assert trained.is_dir()


def test_a_fixed_level_holds_for_all_images_and_redraws_a_folder_of_other_levels(
    workspace: Workspace, overrides: list[str], trained: Path, tmp_path: Path
) -> None:
    sample(workspace, overrides, tmp_path, "sample_params.conditions.FOCAL_PLANE=0")
    path = tmp_path / "images" / "class0_000000.png"
    first = path.stat().st_mtime_ns
    rows = sample(workspace, overrides, tmp_path, "sample_params.conditions.FOCAL_PLANE=0")
    assert {row["FOCAL_PLANE"] for row in rows} == {"0"} and path.stat().st_mtime_ns == first
    rows = sample(workspace, overrides, tmp_path, "sample_params.conditions.FOCAL_PLANE=1")
    assert {row["FOCAL_PLANE"] for row in rows} == {"1"} and path.stat().st_mtime_ns > first
    assert trained.is_dir()


def test_a_checkpoint_of_other_conditions_is_refused(
    workspace: Workspace, overrides: list[str], trained: Path, tmp_path: Path
) -> None:
    for other in ("dataset_params.params.conditions.FOCAL_PLANE=[1, 0]", "dataset_params.params.conditions={}"):
        with pytest.raises(UserError, match=r"trained with other conditions than the config gives: expected .*'0', '1'"):
            sample(workspace, overrides, tmp_path / "out", other)
    assert trained.is_dir()


def test_latents_on_the_fly_have_the_conditions_too(workspace: Workspace, overrides: list[str]) -> None:
    more = [*overrides, workspace.task("planes_on_the_fly"), "dataset_params.load_latents=false", "train_params.max_steps=2"]
    train_ddpm_cond.main(workspace.arguments(*more))
    _, values = checkpoints.read_checkpoint(workspace.run("planes_on_the_fly") / "checkpoints" / "ddpm_ckpt.safetensors")
    assert np.sum([n for rows in values["condition_counts"] for _, n in rows]) == sum(values["class_counts"])


def test_what_is_told_no_view_is_shown_no_turned_image(workspace: Workspace, overrides: list[str]) -> None:
    data = workspace.config(*overrides).dataset_params
    assert data.symmetries == ("identity", "rotate_90", "flip") and data.plain_symmetries == ("identity",)
    plain = workspace.config(*overrides, "dataset_params.symmetry_conditioning=false").dataset_params
    assert plain.plain_symmetries == plain.symmetries


@pytest.fixture(scope="module")
def judged(workspace: Workspace, overrides: list[str]) -> list[str]:
    """Keys for an evaluation, once the judges of class and focal plane are trained."""
    keys = [*overrides, f"evaluation_params.judge_path={workspace.root / 'planes_judge'}",
            "evaluation_params.encoders=[inception]"]
    for options in ((), ("--condition", "FOCAL_PLANE")):
        train_encoder.main([*workspace.arguments(*keys), "--role", "judge", "--epochs", "20", *options])
    return keys


@pytest.fixture
def perfect(tmp_path: Path) -> Path:
    """What a perfect generator draws: phantoms that no one has seen, as a table of samples."""
    write_phantoms(tmp_path / "made", PhantomRequest(num_images=40, image_size=32, seed=4, focal_planes=2))
    with (tmp_path / "made/annotations.csv").open(encoding="utf-8", newline="") as file:
        rows = [{"IMAGE_NAME": row["IMAGE_NAME"], "label": row["blastocyst"], "FOCAL_PLANE": row["FOCAL_PLANE"]}
                for row in csv.DictReader(file)]
    write_manifest(tmp_path / "made", rows)
    return tmp_path / "made"


def write_manifest(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def read_manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run_evaluation(workspace: Workspace, keys: list[str], synthetic: Path) -> dict[str, Any]:
    output = synthetic.parent / "evaluation"
    evaluate.main([*workspace.arguments(*keys), "--synthetic", str(synthetic), "--output", str(output)])
    return json.loads((output / "evaluation.json").read_text(encoding="utf-8"))


def find_value(evaluation: dict[str, Any], metric: str, comparison: str) -> float:
    (value,) = (row["value"] for row in evaluation["rows"] if row["metric"] == metric and row["comparison"] == comparison)
    return value


def test_the_judge_of_a_condition_lies_beside_the_class_judge_and_reads_its_levels(
    workspace: Workspace, judged: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [workspace.root / name for name in ("planes_judge", "planes_judge_FOCAL_PLANE")]
    of_class, of_plane = (json.loads((folder / "training.json").read_text(encoding="utf-8")) for folder in folders)
    assert "condition" not in of_class and (of_plane["condition"], of_plane["levels"]) == ("FOCAL_PLANE", ["0", "1"])
    assert of_plane["identity"] != of_class["identity"]
    assert of_plane["scores"]["val"]["balanced_accuracy"] > 0.8
    again = [*workspace.arguments(*judged), "--role", "judge", "--epochs", "20", "--condition", "FOCAL_PLANE"]
    train_encoder.main(again)
    assert f"{folders[1]} already holds the judge of FOCAL_PLANE of these images" in capsys.readouterr().out


def test_the_focal_plane_of_synthetic_images_is_judged_from_the_manifest(
    workspace: Workspace, judged: list[str], perfect: Path
) -> None:
    metric = "condition balanced accuracy[FOCAL_PLANE]"
    evaluation = run_evaluation(workspace, judged, perfect)
    right, real = (find_value(evaluation, metric, name) for name in ("synthetic", "held_out"))
    assert right > 0.8 and real > 0.8 and not [text for text in evaluation["warnings"] if "was not judged" in text]
    assert find_value(evaluation, metric, "round_trip") < real - 0.2  # the autoencoder here is untrained
    assert find_value(evaluation, f"ratio of {metric}", "synthetic") == pytest.approx(right / real)
    page = (perfect.parent / "evaluation/report_shareable.html").read_text(encoding="utf-8")
    assert "Confusion matrix of FOCAL_PLANE" in page and metric in page
    swapped = [{**row, "FOCAL_PLANE": "10"[int(row["FOCAL_PLANE"])]} for row in read_manifest(perfect)]
    write_manifest(perfect, swapped)
    wrong = run_evaluation(workspace, judged, perfect)
    assert find_value(wrong, metric, "synthetic") == pytest.approx(1 - right)
    assert find_value(wrong, "class balanced accuracy", "synthetic") == find_value(
        evaluation, "class balanced accuracy", "synthetic")


def test_a_condition_that_cannot_be_judged_is_said_and_left_out(
    workspace: Workspace, judged: list[str], perfect: Path, tmp_path: Path
) -> None:
    shutil.copytree(workspace.root / "planes_judge", tmp_path / "alone")
    untrained = run_evaluation(workspace, [*judged, f"evaluation_params.judge_path={tmp_path / 'alone'}"], perfect)
    assert ("FOCAL_PLANE of synthetic images was not judged: train its judge with python -m tools.train_encoder --config "
            "CONFIG --role judge --condition FOCAL_PLANE") in untrained["warnings"]
    write_manifest(perfect, [{name: row[name] for name in ("IMAGE_NAME", "label")} for row in read_manifest(perfect)])
    unknown = run_evaluation(workspace, judged, perfect)
    assert ("FOCAL_PLANE of synthetic images was not judged: they have no manifest.csv with a column of this name"
            in unknown["warnings"])
    for evaluation in (untrained, unknown):
        metrics = {row["metric"] for row in evaluation["rows"]}
        assert "class balanced accuracy" in metrics and not [name for name in metrics if "condition" in name]


def test_levels_and_judges_that_do_not_fit_are_refused(workspace: Workspace, judged: list[str], perfect: Path) -> None:
    arguments = [*workspace.arguments(*judged), "--role", "judge"]
    with pytest.raises(UserError, match=r"expected a name of .*params\.conditions, found 'focal'; did you mean FOCAL_PLANE"):
        train_encoder.main([*arguments, "--condition", "focal"])
    with pytest.raises(UserError, match=r"found 'GRADE_XY'; those there are FOCAL_PLANE"):
        train_encoder.main([*arguments, "--condition", "GRADE_XY"])
    with pytest.raises(UserError, match="--condition: expected with --role judge"):
        train_encoder.main([*workspace.arguments(*judged), "--condition", "FOCAL_PLANE"])
    with pytest.raises(UserError, match=r"evaluation_params\.judge_path: set the folder for the judge"):
        train_encoder.main([*workspace.arguments(*judged, "evaluation_params.judge_path=null"), "--role", "judge",
                            "--condition", "FOCAL_PLANE"])
    with pytest.raises(UserError, match=r"expected the judge of condition 'FOCAL_PLANE' with the levels \['1', '0'\], found "
                       r"a classifier of condition 'FOCAL_PLANE' with the levels \['0', '1'\]; train it anew"):
        run_evaluation(workspace, [*judged, "dataset_params.params.conditions.FOCAL_PLANE=[1, 0]"], perfect)
    write_manifest(perfect, [{**row, "FOCAL_PLANE": "2"} for row in read_manifest(perfect)])
    with pytest.raises(UserError, match=r"cells of FOCAL_PLANE that name no level.*write one of 0, 1"):
        run_evaluation(workspace, judged, perfect)


def test_a_level_without_training_images_is_warned_of(
    workspace: Workspace, judged: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [*judged, "dataset_params.params.conditions.FOCAL_PLANE=[0, 1, 7]",
            f"evaluation_params.judge_path={tmp_path / 'judge'}"]
    train_encoder.main([*workspace.arguments(*keys), "--role", "judge", "--epochs", "1", "--condition", "FOCAL_PLANE"])
    said = capsys.readouterr()
    assert said.err.startswith("warning: no training image has FOCAL_PLANE 7: the judge will never name it\n")
    assert "judge of FOCAL_PLANE on val" in said.out and "AUC not computed" in said.out


def test_a_point_of_a_sweep_is_evaluated_anew_with_another_judge_of_a_condition(
    workspace: Workspace, judged: list[str], tmp_path: Path
) -> None:
    for name in ("judge", "judge_FOCAL_PLANE"):
        shutil.copytree(workspace.root / f"planes_{name}", tmp_path / name)
    config = workspace.config(*judged, f"evaluation_params.judge_path={tmp_path / 'judge'}")
    before = sweeping.point_key({}, config, "val")
    with (tmp_path / "judge_FOCAL_PLANE" / WEIGHTS_FILE).open("ab") as file:
        file.write(b"x")
    assert sweeping.point_key({}, config, "val") != before
