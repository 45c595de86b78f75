"""Patients' data stay home: what derives from them says so, and wandb gets synthetic images and no path."""

import ast
import io
import json
from pathlib import Path

import numpy as np
from offline_project import OfflineProject
from PIL import Image
from safetensors import safe_open

from dataset.decoding import decode_image
from tools.diffusion.data import open_images
from tools.release.leaks import is_copy, real_pixel_keys

REPOSITORY = Path(__file__).parents[2]
DERIVED = (".safetensors", ".npy", ".npz")


def test_every_folder_of_derived_files_carries_the_note(offline_project: OfflineProject) -> None:
    root = offline_project.workspace.root
    files = [path for path in root.rglob("*") if path.suffix in DERIVED and root / "vae" not in path.parents]  # untrained
    folders = {path.parent.relative_to(root).as_posix() for path in files}
    assert {"encoder", "judge", "features", "trained_vae", "runs/reference/checkpoints"} <= folders
    assert len([name for name in folders if name.startswith("latents/")]) == 2
    for path in [*files, *root.rglob("internal/*.png")]:
        notes = [folder / "PATIENT_DATA.txt" for folder in (path.parent, path.parent.parent)]
        assert any(note.is_file() and "patients' images" in note.read_text(encoding="utf-8") for note in notes), path


def test_checkpoints_and_features_say_it_inside_too(offline_project: OfflineProject) -> None:
    root = offline_project.workspace.root
    checkpoints = list((root / "runs/reference/checkpoints").iterdir())
    assert {path.name.split("-")[0] for path in checkpoints} == {"ddpm_ckpt.safetensors", "resume"}
    for path in checkpoints:
        with safe_open(path, framework="pt") as file:
            assert "patients' images" in json.loads(file.metadata()["blastdiffusion"])["values"]["note"]
    features = list((root / "features").glob("*.npz"))
    assert features
    for path in features:
        with np.load(path, allow_pickle=False) as stored:
            assert "patients' images" in json.loads(str(stored["meta"]))["note"]
    for name in ("encoder", "judge", "trained_vae"):
        assert "patients" in json.loads((root / name / "training.json").read_text(encoding="utf-8"))["note"]


def test_wandb_holds_synthetic_images_and_neither_real_ones_nor_names_nor_paths(offline_project: OfflineProject) -> None:
    root = offline_project.workspace.root
    stored = [path for folder in root.rglob("wandb") for path in folder.rglob("*")
              if path.is_file() and not path.is_symlink()]
    assert len([path for path in stored if path.suffix == ".wandb"]) == 3  # training and two evaluations
    images = open_images(offline_project.workspace.config(), None)
    real = real_pixel_keys(images, show_progress=False)
    previews = {decode_image(path).tobytes() for path in (root / "runs/reference/previews").iterdir()}
    pictures = [path for path in stored if path.suffix in (".png", ".jpg", ".jpeg")]
    assert pictures
    for path in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(path.read_bytes())))
        assert pixels.tobytes() in previews
        assert not is_copy(pixels, real)
    for path in stored:
        if path.suffix == ".wandb":
            data = path.read_bytes()
            for record in images.records:
                assert record.image_id.encode() not in data and record.group.encode() not in data
            assert str(root / "phantoms").encode() not in data


def test_only_one_file_speaks_to_wandb_and_only_validation_hands_it_pictures() -> None:
    sources = {path: ast.parse(path.read_text(encoding="utf-8")) for path in REPOSITORY.glob("**/*.py")
               if not {".venv", "tests"} & set(path.relative_to(REPOSITORY).parts)}
    importers, senders = set(), set()
    for path, tree in sources.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "wandb" for name in names):
                importers.add(path.relative_to(REPOSITORY).as_posix())
            if isinstance(node, ast.Attribute) and node.attr == "log_synthetic_image":
                senders.add(path.relative_to(REPOSITORY).as_posix())
    assert importers == {"tools/runtime/tracking.py"}
    assert senders == {"tools/runtime/tracking.py", "tools/diffusion/validation.py"}
