"""Near-copies from end to end: replaced when images are drawn, left out when images are evaluated, canaries found."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from workspace import CLASS_NAMES, Workspace

import sample_ddpm_class_cond
from config.errors import UserError
from dataset.decoding import decode_image
from dataset.images import write_png
from dataset.storage import hash_file
from tools import evaluate
from tools.membership_audit import __main__ as membership_audit


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def sample(workspace: Workspace, output: Path, *extra: str, overrides: tuple[str, ...] = ()) -> None:
    sample_ddpm_class_cond.main([*workspace.arguments(*overrides), "--no-metrics", "--output", str(output), *extra])


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def memorised(workspace: Workspace, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides under which two of the images that the reference run draws are training images."""
    root = tmp_path_factory.mktemp("memorised")
    sample(workspace, root / "drawn", "--per-class", "6")
    assert reference.is_dir()
    shutil.copytree(workspace.phantoms / "images", root / "images")
    rows = read_table(workspace.phantoms / "annotations.csv")
    for number, name in enumerate(("class0_000001.png", "class1_000003.png")):
        shutil.copy(root / "drawn/images" / name, root / "images")
        rows.append({**rows[0], "IMAGE_NAME": name, "blastocyst": name[5], "PATIENT_ID": f"drawn{number}", "SPLIT": "train"})
    with (root / "table.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return (f"dataset_params.params.csv_file={root / 'table.csv'}", f"dataset_params.params.root_dir={root / 'images'}")


def test_copies_are_replaced_by_the_next_images_and_a_rerun_changes_no_byte(
    workspace: Workspace, memorised: tuple[str, ...], tmp_path: Path
) -> None:
    output = tmp_path / "samples"
    sample(workspace, output, "--per-class", "6", "--reject-copies", overrides=memorised)
    rows = read_table(output / "manifest.csv")
    rejected = sorted(path.name for path in (output / "internal/rejected").glob("*.png"))
    assert {"class0_000001.png", "class1_000003.png"} <= set(rejected)
    assert (output / "internal/rejected/PATIENT_DATA.txt").is_file()
    for label in ("0", "1"):
        of_class = [row for row in rows if row["label"] == label]
        gone = [name for name in rejected if name.startswith(f"class{label}_")]
        assert len(of_class) == 6
        assert {row["rejected_copies"] for row in of_class} == {str(len(gone))}
        expected = [f"class{label}_{index:06d}.png" for index in range(6 + len(gone))]
        assert [row["IMAGE_NAME"] for row in of_class] == [name for name in expected if name not in gone]
    assert sorted(path.name for path in (output / "images").iterdir()) == sorted(row["IMAGE_NAME"] for row in rows)
    before = contents(output)
    sample(workspace, output, "--per-class", "6", "--reject-copies", overrides=memorised)
    assert contents(output) == before
    (output / "images" / rows[2]["IMAGE_NAME"]).unlink()
    (output / "internal/rejected/class1_000003.png").unlink()
    sample(workspace, output, "--per-class", "6", "--reject-copies", overrides=memorised)
    assert contents(output) == before


def test_rejected_copies_are_listed_and_every_number_is_of_the_rest(
    classifiers: Workspace, reference: Path, tmp_path: Path
) -> None:
    drawn, mixed, kept = tmp_path / "drawn", tmp_path / "mixed", tmp_path / "kept"
    sample(classifiers, drawn)
    assert reference.is_dir()
    trained = [row for row in read_table(classifiers.phantoms / "annotations.csv") if row["SPLIT"] == "train"]
    for label, name in enumerate(CLASS_NAMES):
        (mixed / name).mkdir(parents=True)
        (kept / name).mkdir(parents=True)
        for path in sorted((drawn / "images").glob(f"class{label}_*.png")):
            shutil.copy(path, mixed / name)
        for row in [row for row in trained if row["blastocyst"] == str(label)][:6]:
            pixels = decode_image(next((classifiers.phantoms / "images").glob(f"{Path(row['IMAGE_NAME']).stem}.*")))
            mirrored = np.clip(pixels[:, ::-1].astype(int) + 4, 0, 255).astype(np.uint8)
            write_png(mixed / name / f"copy_{Path(row['IMAGE_NAME']).stem}.png", mirrored)

    def run(folder: Path, output: Path, *extra: str) -> dict:
        evaluate.main([*classifiers.arguments(), "--synthetic", str(folder), "--output", str(output), *extra])
        return json.loads((output / "evaluation.json").read_text(encoding="utf-8"))

    found = run(mixed, tmp_path / "found")
    row = next(row for row in found["rows"] if row["metric"] == "near-copies[pixels at 16 px]")
    assert row["note"].startswith("copying found: ") and row["value"] >= 12 / 48
    assert any("copying found" in warning for warning in found["warnings"])
    pairs = read_table(tmp_path / "found/internal/nearest_pairs.csv")
    lowest = [pair for pair in pairs if pair["space"] == "pixels at 16 px"][:12]
    assert all(Path(pair["synthetic"]).stem.removeprefix("copy_") == Path(pair["nearest"]).stem for pair in lowest)
    assert not (tmp_path / "found/rejected.csv").exists()

    cleaned = run(mixed, tmp_path / "cleaned", "--reject-copies")
    rejected = {row["IMAGE_NAME"] for row in read_table(tmp_path / "cleaned/rejected.csv")}
    assert sum("copy_" in name for name in rejected) == 12
    for name in CLASS_NAMES:
        for path in (mixed / name).iterdir():
            if f"{name}/{path.name}" not in rejected:
                shutil.copy(path, kept / name)
    rest = run(kept, tmp_path / "rest")
    assert cleaned["rows"] == rest["rows"]
    assert cleaned["provenance"]["num_rejected_as_copies"] == len(rejected)
    assert any(f"{len(rejected)} of 48 synthetic images were rejected" in warning for warning in cleaned["warnings"])
    again = run(mixed, tmp_path / "again", "--reject-copies")
    assert again == cleaned


def test_canaries_trained_fifty_times_are_found(workspace: Workspace, tmp_path: Path) -> None:
    """The positive control: six held-out images beside twelve others, fifty times each, are told from 26 held-out ones."""
    rows = read_table(workspace.phantoms / "annotations.csv")
    trained = [[row for row in rows if row["SPLIT"] == "train" and row["blastocyst"] == label][:6] for label in "01"]
    with (tmp_path / "few.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows([*trained[0], *trained[1], *(row for row in rows if row["SPLIT"] != "train")])
    vae = Path(__file__).parents[2] / "models/pretrained/phantom_vae"  # latents that can be learned
    overrides = {
        "dataset_params.params.csv_file": tmp_path / "few.csv", "dataset_params.params.group_column": "null",
        "dataset_params.symmetries": "[identity]", "dataset_params.directory_latents": tmp_path / "latents",
        "autoencoder_params.pretrained": vae, "dataset_params.z_channels": 8, "unet_params.channels": "[32,64]",
        "train_params.max_steps": 200, "train_params.epochs": 100, "train_params.ema_decay": 0.95,
        "train_params.label_dropout": 0, "train_params.ldm_validate_epochs": 100,
    }
    arguments = workspace.arguments(*(f"{key}={value}" for key, value in overrides.items()))
    membership_audit.main([*arguments, "--plant-canaries", "6", "--output", str(tmp_path / "audit")])
    found = json.loads((tmp_path / "audit/membership_canaries.json").read_text(encoding="utf-8"))
    assert (found["canaries"]["num_members"], found["canaries"]["num_held_out"]) == (6, 26)
    assert found["canaries"]["auc"] > 0.9 and found["canaries"]["verdict"].startswith("membership found")
    assert found["canaries"]["auc"] > found["members"]["auc"]
    table = read_table(tmp_path / "audit/canaries/table.csv")
    canaries = [row for row in table if row["IMAGE_NAME"].startswith("canary_")]
    assert len(canaries) == 6 * 50 and {row["split"] for row in canaries} == {"train"}
    assert not {row["group"] for row in canaries} & {row["group"] for row in table if row not in canaries}


def test_the_audit_of_a_run_gives_the_same_numbers_again(workspace: Workspace, reference: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        membership_audit.main([*workspace.arguments(), "--output", str(tmp_path / name)])
    assert reference.is_dir()
    assert (tmp_path / "one/membership.json").read_bytes() == (tmp_path / "two/membership.json").read_bytes()
    found = json.loads((tmp_path / "one/membership.json").read_text(encoding="utf-8"))
    assert list(found) == ["checkpoint_sha256", "real_split", "members"]
    on_the_fly = [*workspace.arguments("dataset_params.load_latents=false"), "--output", str(tmp_path / "fly")]
    membership_audit.main(on_the_fly)
    encoded = json.loads((tmp_path / "fly/membership.json").read_text(encoding="utf-8"))
    assert encoded["members"]["auc"] == pytest.approx(found["members"]["auc"], abs=0.01)


def test_canaries_that_cannot_be_planted_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    for arguments, message in ((("--plant-canaries", "500"), r"--plant-canaries 500: expected 2 to \d+, because test has"),
                               (("--plant-canaries", "3", "--checkpoint", "x"), "give one of the two")):
        with pytest.raises(UserError, match=message):
            membership_audit.main([*workspace.arguments(), *arguments, "--output", str(tmp_path)])
