"""An evaluation from start to end: its files, what it refuses, and that equal images give equal numbers."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook
from PIL import Image
from workspace import CLASS_NAMES, Workspace, save_autoencoder

import sample_ddpm_class_cond
from config.errors import UserError
from dataset.annotations import read_records
from dataset.storage import hash_file
from models.classifier import WEIGHTS_FILE
from tools import evaluate
from tools.diffusion.data import open_images
from tools.diffusion.trained_images import shorten_hashes
from tools.evaluation import image_sets
from tools.evaluation.encoders.untrained import UNTRAINED
from tools.evaluation.report.page import INTERNAL_NAME, PSEUDONYMS_NAME, SHAREABLE_NAME
from tools.evaluation.rows import COMPARISONS

ROW_KEYS = ["metric", "class", "comparison", "value", "interval", "n_real", "n_synthetic", "literature_comparable", "note"]


@pytest.fixture(scope="module")
def samples(classifiers: Workspace, reference: Path) -> Path:
    """36 images of the reference run, with their evaluation."""
    output = classifiers.root / "evaluated"
    sample_ddpm_class_cond.main([*classifiers.arguments(), "--output", str(output)])
    assert reference.is_dir()
    return output


def read_evaluation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def run_evaluation(
    workspace: Workspace, synthetic: Path, output: Path, *overrides: str, options: tuple[str, ...] = ()
) -> dict[str, Any]:
    evaluate.main([*workspace.arguments(*overrides), "--synthetic", str(synthetic), "--output", str(output), *options])
    return read_evaluation(output)


def find(evaluation: dict[str, Any], metric: str, comparison: str, class_name: str = "all") -> dict[str, Any]:
    found = [row for row in evaluation["rows"] if row["metric"].startswith(metric) and row["comparison"] == comparison
             and row["class"] == class_name]
    assert len(found) == 1, (metric, comparison, class_name, len(found))
    return found[0]


def test_unknown_patients_are_a_limit_of_every_number(samples: Path, workspace: Workspace, tmp_path: Path) -> None:
    told = "patients are unknown (group_column: null)"
    assert told not in " ".join(read_evaluation(samples)["warnings"])
    evaluation = run_evaluation(workspace, samples, tmp_path, "dataset_params.params.group_column=null",
                                "evaluation_params.encoders=[classifier]")
    assert told in " ".join(evaluation["warnings"])


def test_the_schema_of_the_json(samples: Path) -> None:
    evaluation = read_evaluation(samples)
    assert list(evaluation) == ["summary", "provenance", "rows", "warnings"]
    assert [line["aspect"] for line in evaluation["summary"]] == ["fidelity", "variety", "class", "privacy", "utility"]
    assert "classifier" not in " ".join(line["text"] for line in evaluation["summary"][:2])  # which decides neither
    for row in evaluation["rows"]:
        tested = row["comparison"] == "copies" and row["value"] is not None
        assert list(row) == [*ROW_KEYS, *(["outcome"] if tested else [])]
        assert row["comparison"] in COMPARISONS
        assert row["class"] in ("all", *CLASS_NAMES)
        assert row["value"] is None or isinstance(row["value"], float)
        assert row["value"] is not None or row["note"].startswith("not computed")
        assert row["interval"] is None or row["interval"][0] <= row["interval"][1]
        assert row["literature_comparable"] == (row["metric"] == "SSIM")  # there are no official weights here
    names = [(row["metric"], row["comparison"], row["class"]) for row in evaluation["rows"]]
    assert len(names) == len(set(names))
    for class_name in ("all", *CLASS_NAMES):
        for comparison in ("total", "model_gap", "ceiling", "real_real", "floor"):
            assert find(evaluation, "KD[classifier@", comparison, class_name)["value"] is not None


def test_untrained_features_are_always_there_and_the_provenance_says_of_what_kind(samples: Path) -> None:
    evaluation = read_evaluation(samples)
    for name in UNTRAINED:
        for family in ("FD", "KD", "precision", "two-sample AUC"):
            value = find(evaluation, f"{family}[{name}@", "total")["value"]
            assert value is not None or family == "FD"  # which 32 images are too few for
        assert find(evaluation, f"p of KD[{name}@", "real_real")["value"] is not None
    kinds = {name: encoder["kind"] for name, encoder in evaluation["provenance"]["encoders"].items()}
    assert kinds == {"classifier": "in-domain", **dict.fromkeys(UNTRAINED, "untrained")}


def test_counts_are_matched_at_the_real_prior(samples: Path) -> None:
    evaluation = read_evaluation(samples)
    for class_name, count in (("all", 32), ("arrested", 21), ("blastocyst", 11)):
        for comparison in ("total", "model_gap", "real_real"):
            row = find(evaluation, "KD[classifier@", comparison, class_name)
            assert (row["n_real"], row["n_synthetic"]) == (count, count)


def test_fid_without_its_weights_is_a_row_that_says_what_it_wants(samples: Path) -> None:
    row = find(read_evaluation(samples), "FID", "total")
    assert row["value"] is None
    assert row["note"].startswith("not computed: ")
    assert "evaluation_params.inception_path" in row["note"]


def test_equal_evaluations_give_equal_bytes_and_folders_per_class_equal_the_manifest(
    classifiers: Workspace, samples: Path, tmp_path: Path
) -> None:
    again = run_evaluation(classifiers, samples, tmp_path / "again")
    assert (tmp_path / "again/evaluation.json").read_bytes() == (samples / "evaluation.json").read_bytes()
    assert again["provenance"]["checkpoint_sha256"] is not None
    for page in (SHAREABLE_NAME, f"internal/{PSEUDONYMS_NAME}"):
        assert (tmp_path / "again" / page).read_bytes() == (samples / page).read_bytes()
    flips = "The same noise under every label"  # the sampling has the network, the evaluation alone has not
    assert flips in (samples / "internal" / INTERNAL_NAME).read_text(encoding="utf-8")
    assert flips not in (tmp_path / "again/internal" / INTERNAL_NAME).read_text(encoding="utf-8")
    assert flips not in (samples / SHAREABLE_NAME).read_text(encoding="utf-8")

    folders = tmp_path / "folders"
    for label, name in enumerate(CLASS_NAMES):
        (folders / name).mkdir(parents=True)
        for path in (samples / "images").glob(f"class{label}_*.png"):
            shutil.copy(path, folders / name)
    study = tmp_path / "augmentation_study.json"
    images = [hash_file(record.path) for record in open_images(classifiers.config(), None).records]
    quoted = {"verdict": ["Adding them did not help."], "warnings": ["The VAE was kept."], "images": shorten_hashes(images),
              "provenance": {"classes": list(CLASS_NAMES)}}
    study.write_text(json.dumps(quoted), encoding="utf-8")
    by_folder = run_evaluation(classifiers, folders, tmp_path / "by_folder", options=("--augmentation-study", str(study)))
    page = (tmp_path / "by_folder" / SHAREABLE_NAME).read_text(encoding="utf-8")
    assert "Adding them did not help." in page and "The VAE was kept." in page
    assert by_folder["provenance"]["augmentation_study_sha256"] == hash_file(study)
    assert by_folder["rows"] == again["rows"]
    assert by_folder["warnings"] == again["warnings"]
    assert by_folder["provenance"]["checkpoint_sha256"] is None


def test_a_class_name_that_looks_like_a_formula_is_text_in_the_workbook(
    classifiers: Workspace, samples: Path, tmp_path: Path
) -> None:
    table = (classifiers.phantoms / "annotations.csv").read_text(encoding="utf-8")
    (tmp_path / "table.csv").write_text(table, encoding="utf-8")
    folders, names = tmp_path / "folders", ("=1+1", "@blastocyst")
    for label, name in enumerate(names):
        (folders / name).mkdir(parents=True)
        for path in (samples / "images").glob(f"class{label}_*.png"):
            shutil.copy(path, folders / name)
    run_evaluation(classifiers, folders, tmp_path / "out", f"dataset_params.params.class_names={json.dumps(names)}",
                   "evaluation_params.encoders=[inception]", "evaluation_params.judge_path=null",
                   f"dataset_params.params.csv_file={tmp_path / 'table.csv'}")
    with (tmp_path / "out/internal/nearest_pairs.csv").open(encoding="utf-8", newline="") as file:
        synthetic = [row["synthetic"] for row in csv.DictReader(file)]
    assert synthetic and all(name.startswith(("'=1+1/", "'@blastocyst/")) for name in synthetic)
    book = load_workbook(tmp_path / "out/evaluation.xlsx")
    assert book.sheetnames == ["summary", "metrics", "comparisons", "warnings", "provenance"]
    cells = [cell for cell in book["metrics"]["B"] if str(cell.value).startswith("=")]
    assert cells and all(cell.data_type == "s" and cell.value == "=1+1" for cell in cells)
    assert all(cell.data_type != "f" for sheet in book for line in sheet.iter_rows() for cell in line)


def test_the_workbook_holds_what_the_json_holds(samples: Path) -> None:
    sheet = load_workbook(samples / "evaluation.xlsx")["metrics"]
    header, *lines = sheet.iter_rows(values_only=True)
    rows = read_evaluation(samples)["rows"]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        held = dict(zip(header, line, strict=True))
        assert (held["metric"], held["class"], held["comparison"]) == (row["metric"], row["class"], row["comparison"])
        for key, value in zip(("value", "low", "high"), (row["value"], *(row["interval"] or (None, None))), strict=True):
            assert held[key] == (None if value is None else pytest.approx(value, rel=1e-14))


def test_the_shareable_page_holds_nothing_of_the_real_images(classifiers: Workspace, samples: Path) -> None:
    records = read_records(classifiers.phantoms / "annotations.csv", classifiers.phantoms / "images",
                           class_names=CLASS_NAMES, label_column="blastocyst", group_column="PATIENT_ID",
                           split_column="SPLIT")
    page = re.sub(r"base64,[A-Za-z0-9+/=]+", "", (samples / SHAREABLE_NAME).read_text(encoding="utf-8"))
    words = set(re.findall(r"[\w.-]+", page))
    assert not words & {name for record in records for name in (record.image_id, record.path.name, record.group)}
    assert str(classifiers.root) not in page and str(samples) not in page
    assert "32 real images of the test split" in page and "Headline numbers" in page
    assert (samples / "internal/PATIENT_DATA.txt").is_file()


def test_real_images_given_as_synthetic_are_refused(classifiers: Workspace, tmp_path: Path) -> None:
    records = read_records(classifiers.phantoms / "annotations.csv", classifiers.phantoms / "images",
                           class_names=CLASS_NAMES, label_column="blastocyst", group_column="PATIENT_ID",
                           split_column="SPLIT")
    lines = ["IMAGE_NAME,label", *(f"{r.path.name},{r.label}" for r in records if r.split == "train")]
    (tmp_path / "images").symlink_to(classifiers.phantoms / "images", target_is_directory=True)
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="found 138 that are real images of this data set"):
        run_evaluation(classifiers, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_copies_of_real_images_are_refused_by_their_content(
    classifiers: Workspace, tmp_path: Path
) -> None:
    records = read_records(classifiers.phantoms / "annotations.csv", classifiers.phantoms / "images",
                           class_names=CLASS_NAMES, label_column="blastocyst", group_column="PATIENT_ID",
                           split_column="SPLIT")
    for split in ("train", "val"):  # val is neither trained on nor compared with here
        for record in records:
            folder = tmp_path / split / CLASS_NAMES[record.label]
            folder.mkdir(parents=True, exist_ok=True)
            if record.split == split:
                shutil.copy(record.path, folder / f"renamed_{record.path.name}")
        count = sum(record.split == split for record in records)
        with pytest.raises(UserError, match=f"found {count} that are real images of this data set"):
            run_evaluation(classifiers, tmp_path / split, tmp_path / "out")


def test_a_file_that_is_no_study_is_refused(classifiers: Workspace, samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    for text in ("[]", '{"verdict": []}', '{"verdict": [1]}', '{"verdict": ["of an earlier release"]}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"study\.json: expected the augmentation_study\.json that a study of this"):
            run_evaluation(classifiers, samples, tmp_path / "out", options=("--augmentation-study", str(path)))
    stored = {"verdict": ["It helped."], "warnings": [], "images": ["0" * 16], "provenance": {"classes": ["cat", "dog"]}}
    path.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(UserError, match="expected a study of the classes arrested, blastocyst, found cat, dog"):
        run_evaluation(classifiers, samples, tmp_path / "out", options=("--augmentation-study", str(path)))
    path.write_text(json.dumps({**stored, "provenance": {"classes": list(CLASS_NAMES)}}), encoding="utf-8")
    report = run_evaluation(classifiers, samples, tmp_path / "out", options=("--augmentation-study", str(path)))
    assert any("augmentation study quoted was made of other images" in warning for warning in report["warnings"])


def test_a_folder_without_images_or_classes_is_refused(
    classifiers: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"expected manifest\.csv, or one folder per class \(arrested, blastocyst\)"):
        run_evaluation(classifiers, tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"expected manifest\.csv, or one folder per class"):
        run_evaluation(classifiers, tmp_path / "absent", tmp_path / "out")
    for name in CLASS_NAMES:
        (tmp_path / name).mkdir()
    (tmp_path / "arrested/photo.webp").touch()
    with pytest.raises(UserError):
        run_evaluation(classifiers, tmp_path, tmp_path / "out")
    assert "arrested: left out 1 that are no .png, .jpg," in capsys.readouterr().err


def test_a_judge_of_another_number_of_classes_is_refused(classifiers: Workspace, samples: Path, tmp_path: Path) -> None:
    from models.classifier import Classifier, ClassifierConfig

    for name, data in Classifier(ClassifierConfig(im_channels=1, num_classes=3, image_size=32)).to_files().items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=r"judge_path: .*expected a judge of .* \(2, 1, 32\), found \(3, 1, 32\)"):
        run_evaluation(classifiers, samples, tmp_path / "out", f"evaluation_params.judge_path={tmp_path}")


def test_a_judge_of_other_images_or_names_is_refused(classifiers: Workspace, samples: Path, tmp_path: Path) -> None:
    """A judge of 32 px reads 64 px images without complaint, and one of swapped classes swaps every number."""
    from models.classifier import Classifier, ClassifierConfig

    for name, data in Classifier(ClassifierConfig(im_channels=1, num_classes=2, image_size=64)).to_files().items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=r"expected a judge of .* \(2, 1, 32\), found \(2, 1, 64\); train it anew"):
        run_evaluation(classifiers, samples, tmp_path / "out", f"evaluation_params.judge_path={tmp_path}")
    shutil.copytree(classifiers.root / "judge", tmp_path / "judge")
    record = json.loads((tmp_path / "judge/training.json").read_text(encoding="utf-8"))
    assert record["class_names"] == list(CLASS_NAMES)
    record["class_names"] = list(CLASS_NAMES)[::-1]
    (tmp_path / "judge/training.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=r"expected a judge of the classes \['arrested', 'blastocyst'\], found one of \['bl"):
        run_evaluation(classifiers, samples, tmp_path / "out", f"evaluation_params.judge_path={tmp_path / 'judge'}")


def test_held_out_images_that_something_was_trained_on_are_refused(
    classifiers: Workspace, samples: Path, tmp_path: Path
) -> None:
    """Train and test change places in the table, as patients do where a table grows: the old weights know them."""
    table = Path(str(classifiers.config().dataset_params.params.csv_file))
    swapped = tmp_path / "swapped.csv"
    lines = table.read_text(encoding="utf-8").replace("train", "TEST").replace("test", "train").replace("TEST", "test")
    swapped.write_text(lines, encoding="utf-8")
    changes = [f"dataset_params.params.csv_file={swapped}", "evaluation_params.encoders=[squeezenet1_1]",
               f"dataset_params.directory_inception_features={tmp_path / 'features'}"]
    told = "so every number would be too good; give the table and the split of that training"
    with pytest.raises(UserError, match=rf"the classifier in .*judge was trained on 1\d\d of the 1\d\d test images, {told}"):
        run_evaluation(classifiers, samples, tmp_path / "out", *changes)
    changes.append("evaluation_params.judge_path=null")
    with pytest.raises(UserError, match=rf"the generator of .* was trained on 1\d\d of the 1\d\d test images, {told}"):
        run_evaluation(classifiers, samples, tmp_path / "out", *changes)
    shutil.copytree(classifiers.root / "vae", tmp_path / "vae")
    known = json.loads((classifiers.root / "judge/training.json").read_text(encoding="utf-8"))["trained_images"]
    (tmp_path / "vae/training.json").write_text(json.dumps({"trained_images": known[:3]}), encoding="utf-8")
    with pytest.raises(UserError, match=r"the VAE in .* was trained on 3 of the 1\d\d test images"):
        run_evaluation(classifiers, samples, tmp_path / "out", *changes, f"autoencoder_params.pretrained={tmp_path / 'vae'}")


def test_an_encoder_that_served_as_a_loss_is_named_and_the_own_vae_is_no_judge(
    classifiers: Workspace, samples: Path, tmp_path: Path
) -> None:
    shutil.copytree(classifiers.root / "vae", tmp_path / "vae")
    used = hash_file(classifiers.root / "encoder" / WEIGHTS_FILE)
    (tmp_path / "vae/training.json").write_text(json.dumps({"loss_weights_sha256": [used]}), encoding="utf-8")
    evaluation = run_evaluation(classifiers, samples, tmp_path / "out", f"autoencoder_params.pretrained={tmp_path / 'vae'}",
                                "evaluation_params.encoders=[classifier,vae]")
    warnings = " ".join(evaluation["warnings"])
    assert "classifier: its weights served as a loss of the VAE, so its distances flatter these images" in warnings
    assert "the encoder named vae is the autoencoder that the synthetic images were decoded by" in warnings
    assert find(evaluation, "KD[vae@", "total")["value"] is not None


def test_many_images_are_decoded_when_needed_and_give_the_same_bytes(
    classifiers: Workspace, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_sets, "_HELD_BYTES", 0)
    run_evaluation(classifiers, samples, tmp_path)
    assert (tmp_path / "evaluation.json").read_bytes() == (samples / "evaluation.json").read_bytes()


def test_a_cache_of_another_autoencoder_is_named_and_made_anew(
    classifiers: Workspace, samples: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features = f"dataset_params.directory_inception_features={tmp_path / 'features'}"
    run_evaluation(classifiers, samples, tmp_path / "first", features)
    save_autoencoder(tmp_path / "vae", seed=1)
    caplog.clear()
    run_evaluation(classifiers, samples, tmp_path / "second", features, f"autoencoder_params.pretrained={tmp_path / 'vae'}")
    assert "classifier_test_round_trip.npz: stale, differs in transform_hash; computed anew" in caplog.text
    assert "classifier_test.npz" not in caplog.text  # the images themselves are the same


def test_files_of_other_sizes_or_compressed_ones_are_warned_of(
    classifiers: Workspace, samples: Path, tmp_path: Path
) -> None:
    for label, name in enumerate(CLASS_NAMES):
        (tmp_path / "folders" / name).mkdir(parents=True)
        for index, path in enumerate(sorted((samples / "images").glob(f"class{label}_*.png"))):
            with Image.open(path) as image:
                if index == 0:
                    image.resize((48, 48)).save(tmp_path / "folders" / name / path.name)
                else:
                    image.convert("L").save(tmp_path / "folders" / name / f"{path.stem}.jpg")
    evaluation = run_evaluation(classifiers, tmp_path / "folders", tmp_path / "out")
    warnings = " ".join(evaluation["warnings"])
    assert "2 of 36 synthetic images are not 32 x 32 px (such as 48 x 48) and were resized" in warnings
    assert "34 of 36 synthetic images are JPEG files" in warnings
