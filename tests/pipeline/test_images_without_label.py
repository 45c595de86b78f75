"""Images without a label, one class, and none: through checks, training, sampling and evaluation."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from workspace import Workspace, forget_accelerator

import sample_ddpm_class_cond
import train_ddpm_cond
from config.errors import UserError
from dataset.decoding import decode_image
from dataset.images import write_png
from tools import evaluate
from tools.check_dataset import __main__ as check_dataset
from tools.check_vae import __main__ as check_vae
from tools.diffusion.project import Project
from tools.diffusion.trained_images import TRAINED_KEY
from tools.runtime.checkpoints import read_checkpoint
from tools.runtime.run_directory import RunDirectory
from tools.train_encoder import __main__ as train_encoder

NUM_UNLABELLED = 60
EVALUATED = ("evaluation_params.encoders=[vae]", "evaluation_params.judge_path=null")


@pytest.fixture(scope="module")
def table(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace's table without the labels of some training rows, and of one test row's patient."""
    rows = list(csv.DictReader((workspace.phantoms / "annotations.csv").read_text(encoding="utf-8").splitlines()))
    training = [row for row in rows if row["SPLIT"] == "train"]
    for row in [*training[-NUM_UNLABELLED:], next(row for row in rows if row["SPLIT"] == "test")]:
        row["blastocyst"] = ""
    path = tmp_path_factory.mktemp("unlabelled") / "annotations.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def settings(table: Path, *further: str) -> tuple[str, ...]:
    return (f"dataset_params.params.csv_file={table}", *EVALUATED, *further)


def test_a_row_without_a_label_is_an_error_that_names_the_key(workspace: Workspace, table: Path) -> None:
    told = rf"labels that cannot be used \({NUM_UNLABELLED + 1}\): .*blank.*set unlabelled: train"
    with pytest.raises(UserError, match=told):
        _ = Project.open(workspace.config(*settings(table))).records


def test_unlabelled_images_are_trained_on_and_stand_in_no_class(
    workspace: Workspace, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (*settings(table, "dataset_params.params.unlabelled=train"), workspace.task("unlabelled"))
    check_dataset.main(workspace.arguments(*given))
    shown = capsys.readouterr().out
    assert f"train {NUM_UNLABELLED}, test 1" in shown and "images without a label" in shown and "0 errors" in shown
    train_ddpm_cond.main([*workspace.arguments(*given), "--dry-run"])
    assert f"no label {NUM_UNLABELLED}; val" in capsys.readouterr().out
    train_ddpm_cond.main(workspace.arguments(*given))
    forget_accelerator()
    config = workspace.config(*given)
    project, run = Project.open(config), RunDirectory(workspace.run("unlabelled"))
    _, values = read_checkpoint(run.weights(config.train_params))
    labelled = [record for record in project.records if record.split == "train"]
    assert values["class_counts"] == [sum(record.label == label for record in labelled) for label in (0, 1)]
    assert len(values[TRAINED_KEY]) == len(labelled) + NUM_UNLABELLED == len(project.trained_images("train").records)
    sample_ddpm_class_cond.main(workspace.arguments(*given))
    forget_accelerator()
    evaluation = json.loads((run.root / "samples/evaluation.json").read_text(encoding="utf-8"))
    counts = evaluation["provenance"]["num_images"]
    assert (counts["train"], counts["unlabelled"]) == (len(labelled), NUM_UNLABELLED)

    folder = tmp_path / "copies"  # of unlabelled training images, a little brighter
    unlabelled = [record for record in project.every_image.records if record.label == 2 and record.split == "train"]
    for number, record in enumerate(unlabelled[:30]):
        pixels = np.clip(decode_image(record.path).astype(int) + 3, 0, 255).astype(np.uint8)
        write_png(folder / config.dataset_params.params.class_names[number % 2] / f"{number}.png", pixels[..., None])
    evaluate.main([*workspace.arguments(*given), "--synthetic", str(folder), "--output", str(tmp_path / "out")])
    assert "copying found" in (tmp_path / "out/evaluation.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("classes", ["[]", "[embryo]"])
def test_one_class_or_none_goes_through_every_command(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: str
) -> None:
    name = "none" if classes == "[]" else "one"
    given = (f"dataset_params.params.class_names={classes}", *EVALUATED, workspace.task(name))
    if name == "one":
        given = (*given, "dataset_params.params.label_column=null")
    check_dataset.main(workspace.arguments(*given))
    assert "0 errors" in capsys.readouterr().out
    check_vae.main(workspace.arguments(*given))
    assert "the class was not read" in capsys.readouterr().out
    train_ddpm_cond.main(workspace.arguments(*given))
    forget_accelerator()
    sample_ddpm_class_cond.main(workspace.arguments(*given))
    forget_accelerator()
    samples = workspace.run(name) / "samples"
    rows = json.loads((samples / "evaluation.json").read_text(encoding="utf-8"))["rows"]
    assert {row["class"] for row in rows} == {"all"}
    assert any("one class" in row["note"] for row in rows if row["metric"].startswith("class "))
    assert any(row["metric"].startswith("KD[untrained_conv") and row["value"] is not None for row in rows)
    with pytest.raises(UserError, match="expected two classes or more, found one"):
        train_encoder.main([*workspace.arguments(*given, f"evaluation_params.judge_path={tmp_path / 'judge'}"), "--role",
                            "judge", "--epochs", "1"])
