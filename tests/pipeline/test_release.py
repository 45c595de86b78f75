"""A release holds what its list allows, nothing that leads to a patient, a user or a machine, and refuses what is real."""

import base64
import csv
import getpass
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from offline_project import OfflineProject
from openpyxl import load_workbook
from PIL import Image

from config.errors import UserError
from config.load import load_config
from dataset.decoding import decode_image, read_png_text
from dataset.images import write_png
from dataset.storage import hash_file
from tools.diffusion.project import Project
from tools.diffusion.samples import MANIFEST_COLUMNS
from tools.release import __main__ as release

KINDS = {"README.md", "config.yaml", "evaluation.json", "evaluation.xlsx", "grid_class0.png", "grid_class1.png",
         "manifest.csv", "release.json", "report_shareable.html"}


@pytest.fixture
def run(offline_project: OfflineProject, tmp_path: Path) -> Path:
    """A copy of the finished run whose samples a test may alter."""
    source = offline_project.workspace.run("reference")
    shutil.copytree(source / "samples", tmp_path / "run/samples")
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(source / name, tmp_path / "run" / name)
    return tmp_path / "run"


def make(run: Path, *words: str) -> Path:
    output = run.parent / "out"
    release.main([str(run), "--output", str(output), *words])
    return output


def refuse(run: Path, match: str, *words: str) -> None:
    """It is refused in one line, and leaves neither a folder nor a draft of one."""
    before = sorted(run.parent.rglob("*"))
    with pytest.raises(UserError, match=match) as refusal:
        make(run, *words)
    assert "\n" not in str(refusal.value)
    assert sorted(run.parent.rglob("*")) == before


def read_evaluation(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def add_to_evaluation(run: Path, **changes: object) -> None:
    path = run / "samples/evaluation.json"
    stored = read_evaluation(path.parent)
    for key, values in changes.items():
        stored[key] = [*stored[key], *values] if isinstance(values, list) else {**stored[key], **values}
    path.write_text(json.dumps(stored), encoding="utf-8")


def row(metric: str, value: float | None, note: str) -> dict:
    return {"metric": metric, "class": "all", "comparison": "total", "value": value, "interval": [0.0, 1.0], "n_real": 32,
            "n_synthetic": 36, "literature_comparable": False, "note": note}


def test_it_holds_the_listed_files_and_no_other(run: Path) -> None:
    (run / "samples/images/class0_999999.png").write_bytes(b"not in the manifest")
    (run / "samples/notes_on_patients.txt").write_text("private", encoding="utf-8")
    output = make(run)
    with (output / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == MANIFEST_COLUMNS and len(rows) == 36
    held = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert held == KINDS | {f"images/{line['IMAGE_NAME']}" for line in rows}
    record = json.loads((output / "release.json").read_text(encoding="utf-8"))
    assert record["sha256"] == {name: hash_file(output / name) for name in held - {"release.json"}}
    assert not [path for path in run.parent.iterdir() if path.name.startswith(".")]


def test_images_are_written_anew_with_our_marks_only(run: Path) -> None:
    victim = run / "samples/images/class0_000000.png"
    pixels, marks = decode_image(victim), read_png_text(victim)
    write_png(victim, pixels, text={**marks, "Author": "somebody", "Source": "elsewhere"})
    output = make(run)
    released = output / "images/class0_000000.png"
    assert np.array_equal(decode_image(released), pixels)
    assert read_png_text(released) == marks
    assert b"somebody" not in released.read_bytes()


def test_no_text_leads_to_an_image_a_patient_a_user_or_a_machine(run: Path, offline_project: OfflineProject) -> None:
    records = Project.open(load_config(run / "config.yaml")).records
    telling = records[5]
    add_to_evaluation(
        run, warnings=[f"image {telling.image_id} is odd", "see /home/somebody/project/notes.txt"],
        rows=[row("near", 1.0, f"nearest patient {telling.group}"), row("far", 2.0, f"read {telling.path}")],
        provenance={"made_by": "somebody", "real_ids": [telling.image_id]},
    )
    output = make(run)
    stored = read_evaluation(output)
    assert "images_sha256" not in stored["provenance"] and "transform" not in stored["provenance"]
    assert any("(path)" in text for text in stored["warnings"])
    cells = [str(cell) for sheet in load_workbook(output / "evaluation.xlsx")
             for line in sheet.iter_rows(values_only=True) for cell in line]
    texts = [path.read_text(encoding="utf-8") for path in output.iterdir()
             if path.suffix in (".md", ".yaml", ".json", ".csv")]
    texts += [str(read_png_text(path)) for path in output.rglob("*.png")] + cells
    whole = "\n".join(texts)
    for record in records:
        assert record.image_id not in whole and record.group not in whole
    for forbidden in (str(offline_project.workspace.root), str(run), "somebody", "annotations.csv", "PATIENT_ID",
                      f"{Path.home()}/"):
        assert forbidden not in whole
    if getpass.getuser() != "root":
        assert getpass.getuser() not in whole


def test_the_config_keeps_numbers_and_choices_and_can_be_read(run: Path) -> None:
    original, cleaned = load_config(run / "config.yaml"), load_config(make(run) / "config.yaml")
    assert cleaned.unet_params == original.unet_params and cleaned.diffusion_params == original.diffusion_params
    assert cleaned.train_params.ldm_lr == original.train_params.ldm_lr
    assert cleaned.dataset_params.params.class_names == original.dataset_params.params.class_names
    table = cleaned.dataset_params.params
    removed = (table.csv_file, table.root_dir, table.group_column, cleaned.train_params.task_name,
               cleaned.autoencoder_params.pretrained, cleaned.evaluation_params.judge_path)
    assert all(str(text).startswith("removed_") for text in removed)


def test_conditions_keep_their_columns_and_levels_and_covariates_are_searched(run: Path) -> None:
    path, manifest = run / "config.yaml", run / "samples/manifest.csv"
    original, table = path.read_text(encoding="utf-8"), manifest.read_text(encoding="utf-8").splitlines()
    path.write_text(original.replace("    conditions: {}", "    conditions: {SPLIT: [train, val, test]}").replace(
        "split_column: SPLIT", "split_column: null").replace(
        "    covariate_columns: []", "    covariate_columns: [PATIENT_ID]"),
        encoding="utf-8")
    (run / "samples/evaluation.json").unlink()
    manifest.write_text("\n".join([f"{table[0]},SPLIT,secret", *(f"{line},val,x" for line in table[1:])]), encoding="utf-8")
    output = make(run)
    assert (output / "manifest.csv").read_text(encoding="utf-8").splitlines()[:2] == [f"{table[0]},SPLIT", f"{table[1]},val"]
    cleaned = load_config(output / "config.yaml").dataset_params.params
    assert cleaned.conditions["SPLIT"].levels == ("train", "val", "test") and cleaned.covariate_columns == ()
    shutil.rmtree(output)
    manifest.write_text("\n".join([f"{table[0]},SPLIT", *(f"{line},patient_0003" for line in table[1:])]), encoding="utf-8")
    refuse(run, "expected in SPLIT one of train, val, test, found patient_0003")


def test_the_card_tells_numbers_limits_use_and_the_test_for_copies(run: Path) -> None:
    card = (make(run) / "README.md").read_text(encoding="utf-8")
    for part in ("Research, not clinical", "arXiv:2506.13843", "To be chosen by the owner", "Trained on 138 images",
                 "near-copies", "No image equals a real one", "trained for 8 steps"):
        assert part in card
    stored = next(line for line in read_evaluation(run / "samples")["rows"] if line["metric"].startswith("KD[classifier@")
                  and (line["comparison"], line["class"]) == ("total", "all"))
    low, high = stored["interval"]
    assert (f"| total | {stored['value']:.4g} | {low:.4g} to {high:.4g} | {stored['n_real']} | {stored['n_synthetic']} |"
            in card)


def test_the_verdict_of_a_memorisation_audit_goes_into_the_card(run: Path) -> None:
    audit = row("memorisation share", 0.25, "9 of 36 are | nearer than held-out images <b>") | {"comparison": "copies"}
    add_to_evaluation(run, rows=[audit])
    card = (make(run) / "README.md").read_text(encoding="utf-8")
    assert "Copies were not tested" not in card
    copies = card.split("## Copies of training images")[1].split("## Intended use")[0]
    assert "| memorisation share | copies | 0.25 | 0 to 1 | 32 | 36 |" in copies
    assert "9 of 36 are \\| nearer than held-out images &lt;b&gt;" in copies


def test_without_an_evaluation_or_a_log_the_card_says_so(run: Path) -> None:
    for name in ("samples/evaluation.json", "metrics.jsonl"):
        (run / name).unlink()
    output = make(run)
    assert "These images were not evaluated" in (output / "README.md").read_text(encoding="utf-8")
    assert not (output / "evaluation.xlsx").exists()


@pytest.mark.parametrize("turn", [lambda pixels: pixels, np.rot90, np.fliplr])
def test_a_real_image_among_the_synthetic_ones_is_refused(run: Path, turn: object) -> None:
    victim = run / "samples/images/class1_000003.png"
    real = decode_image(Project.open(load_config(run / "config.yaml")).images("train").records[0].path)
    write_png(victim, np.ascontiguousarray(turn(real)), text=read_png_text(victim))
    refuse(run, r"class1_000003\.png is or holds a real image of the data set, pixel by pixel; nothing was released")


def test_an_image_without_our_mark_is_refused(run: Path) -> None:
    victim = run / "samples/images/class0_000001.png"
    write_png(victim, decode_image(victim))
    refuse(run, "expected an image that is marked as synthetic inside, found no such mark")


def test_images_that_the_manifest_does_not_describe_are_refused(run: Path) -> None:
    path = run / "samples/manifest.csv"
    table = path.read_text(encoding="utf-8")
    path.write_text(table.replace("class0_000001.png,0,", "class0_000001.png,1,"), encoding="utf-8")
    refuse(run, r"class0_000001\.png: differs from manifest\.csv in label")
    path.write_text(table.replace("class0_000001.png", "../../images/patient.png"), encoding="utf-8")
    refuse(run, r"expected names such as class0_000000\.png, found \.\./\.\./images/patient\.png")
    path.write_text(table.replace("checkpoint_sha256", "other"), encoding="utf-8")
    refuse(run, "found no checkpoint_sha256")
    path.write_text("\n".join(table.splitlines()[:-1]), encoding="utf-8")
    refuse(run, r"evaluation\.json is about other images than .*manifest\.csv lists")


def test_a_run_without_config_or_samples_is_refused(run: Path) -> None:
    (run / "samples/manifest.csv").unlink()
    refuse(run, "expected the table of the synthetic images, found nothing there; draw them first")
    refuse(run, "expected the table of the synthetic images", "--samples", str(run / "elsewhere"))
    (run / "config.yaml").unlink()
    refuse(run, r"expected the folder of a run, found no config\.yaml in it; give <task_name>")


def test_a_data_set_that_is_away_is_refused_unless_that_is_wanted(run: Path, offline_project: OfflineProject) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("phantoms/images", "phantoms/gone"), encoding="utf-8")
    refuse(run, "the data set of .* cannot be read, so nothing can be compared with it .*--without-data")
    card = (make(run, "--without-data") / "README.md").read_text(encoding="utf-8")
    assert "The data set was not at hand" in card and "No image equals a real one" not in card
    assert str(offline_project.workspace.root) not in card


def test_an_existing_folder_is_replaced_only_by_force_and_only_if_it_is_a_release(run: Path) -> None:
    output = make(run)
    refuse(run, "expected no folder or an empty one, found 45 files; choose another, or give --force")
    old = (output / "README.md").stat().st_mtime_ns
    make(run, "--force")
    assert (output / "README.md").stat().st_mtime_ns != old
    (output / "mine.txt").write_text("mine", encoding="utf-8")
    refuse(run, r"--force replaces only what this command wrote, found other files \(mine\.txt\)", "--force")
    shutil.rmtree(output)
    output.mkdir()
    (output / "mine.txt").write_text("mine", encoding="utf-8")
    refuse(run, r"--force replaces only what this command wrote", "--force")
    (output / "mine.txt").unlink()
    make(run)
    shutil.rmtree(output)
    output.write_text("a file", encoding="utf-8")
    refuse(run, "expected a folder, found a file")


def page(pixels: np.ndarray, text: str = "") -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<!doctype html><p>{text}</p><img src="data:image/png;base64,{encoded}">'


def test_the_shareable_report_is_taken_along_and_searched(run: Path) -> None:
    report = run / "samples/report_shareable.html"
    synthetic = decode_image(run / "samples/images/class0_000000.png")
    record = Project.open(load_config(run / "config.yaml")).images("test").records[0]
    report.write_text(page(synthetic, "numbers 1/2"), encoding="utf-8")
    output = make(run)
    assert (output / "report_shareable.html").read_text(encoding="utf-8") == page(synthetic, "numbers 1/2")
    shutil.rmtree(output)
    report.write_text(page(decode_image(record.path)), encoding="utf-8")
    refuse(run, r"report_shareable\.html is or holds a real image")
    report.write_text(page(synthetic, record.group), encoding="utf-8")
    refuse(run, rf"report_shareable\.html would have held the group {record.group}; nothing was released")
    report.write_text(page(synthetic, "".join(f"&#{ord(sign)};" for sign in record.group)), encoding="utf-8")
    refuse(run, rf"report_shareable\.html would have held the group {record.group}; nothing was released")
    report.write_text('<img src="data:image/png;base64,AAAA">', encoding="utf-8")
    refuse(run, "a picture in it cannot be read")
    report.write_text("<p>made in /home/somebody/x", encoding="utf-8")
    refuse(run, re.escape("would have held the absolute path /home/somebody/x"))
