"""Train a small in-domain classifier on the real training split: the encoder of distances, or the judge of classes.

The two roles are trained separately, from different seeds, so that the one that judges the class of synthetic images is
not the one whose features measure their distance.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from config.errors import UserError
from config.load import load_config
from config.schema import Config
from dataset.image_bank import ImageBank
from dataset.latents import LabelledImages
from dataset.order import SampleOrder, generator
from dataset.patient_note import write_patient_note
from dataset.storage import hash_bytes, hash_file, hash_json, write_bytes, write_json
from dataset.symmetries import apply_symmetry
from models.classifier import Classifier, ClassifierConfig
from models.ema import ExponentialMovingAverage
from tools.evaluation.accuracy import balanced_accuracy
from tools.runtime.command import Interrupted, deferred_signals, run_command
from tools.runtime.data import has_split, open_images, transform_identity
from tools.runtime.progress import Progress
from tools.runtime.training import lr_factor

_ROLES = {"encoder": ("classifier_path", 1), "judge": ("judge_path", 2)}  # config key, and what is added to the seed
_BATCH_SIZE = 64
_PEAK_LR = 2e-3
_WEIGHT_DECAY = 0.02
_EMA_DECAY = 0.99
_LARGEST_SHIFT = 1 / 16  # of the side: oocytes are never exactly in the middle
_BRIGHTNESS_STD, _CONTRAST_STD = 0.1, 0.1  # exposure differs between microscopes


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_encoder", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="YAML config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    parser.add_argument("--role", choices=tuple(_ROLES), default="encoder",
                        help="encoder: written to evaluation_params.classifier_path; judge: to judge_path")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training split (default 30)")
    arguments = parser.parse_args(argv)
    if arguments.epochs < 1:
        raise UserError(f"--epochs: expected 1 or more, found {arguments.epochs}")
    train_encoder(load_config(arguments.config, arguments.set), role=arguments.role, epochs=arguments.epochs)


def train_encoder(config: Config, *, role: str, epochs: int) -> Path:
    """Train, report on the validation split, write the folder; does nothing where it was made from the same data."""
    key, seed_offset = _ROLES[role]
    path = getattr(config.evaluation_params, key)
    if path is None:
        raise UserError(f"evaluation_params.{key}: give the folder that the {role} is written to")
    output, images = Path(path), open_images(config, "train")
    identity = hash_json({
        "role": role, "epochs": epochs, "seed": config.train_params.seed, "transform": transform_identity(config),
        "symmetries": list(config.dataset_params.plain_symmetries),
        "images": [[hash_file(record.path), record.label] for record in images.records],
    })
    if _read_identity(output) == identity:
        print(f"{output} holds the {role} of these images already")
        return output
    network = _fit(config, images, seed=config.train_params.seed + seed_offset, epochs=epochs, title=role)
    files = network.to_files()
    scores = {split: _score(network, open_images(config, split)) for split in ("train", "val") if has_split(config, split)}
    write_patient_note(output, "The weights in this folder")
    for name, data in files.items():
        write_bytes(output / name, data)
    write_json(output / "training.json", {
        "identity": identity, "role": role, "epochs": epochs, "training_images": len(images), "scores": scores,
        "files_sha256": {name: hash_bytes(data) for name, data in files.items()},
        "note": "derived from its training images: where they are patients', share it by the same rules",
    })
    for split, score in scores.items():
        area = "not computed, a class is absent" if score["auc"] is None else f"{score['auc']:.3f}"
        print(f"{role} on {split}: balanced accuracy {score['balanced_accuracy']:.3f}, AUC {area}")
    print(f"saved {output}")
    return output


def _fit(config: Config, images: LabelledImages, *, seed: int, epochs: int, title: str) -> Classifier:
    table = config.dataset_params.params
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)  # initial weights and dropout
    network = Classifier(ClassifierConfig(im_channels=table.im_channels, num_classes=config.num_classes,
                                          image_size=table.image_size)).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=_PEAK_LR, weight_decay=_WEIGHT_DECAY)
    ema = ExponentialMovingAverage(network, _EMA_DECAY)
    labels = np.array([record.label for record in images.records])
    order, bank = SampleOrder(labels, seed=seed, balance=1.0), ImageBank(images)
    steps = max(1, epochs * len(images) // _BATCH_SIZE)
    with deferred_signals() as stop, Progress(title, steps, unit="steps",
                                              enabled=config.logging_params.progress_bar) as bar:
        for step in range(steps):
            positions = order.positions(step * _BATCH_SIZE, _BATCH_SIZE)
            pixels = _augment(bank.batch(positions), seed=seed, step=step,
                              symmetries=config.dataset_params.plain_symmetries)
            optimizer.param_groups[0]["lr"] = _PEAK_LR * lr_factor("cosine", share=step / steps, step=step, warmup_steps=20)
            wanted = torch.from_numpy(labels[positions]).to(device)
            loss = F.cross_entropy(network(pixels.to(device)), wanted, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            ema.update(network)
            bar.update(step + 1, f"loss {loss.item():.3f}")
            if stop:
                raise Interrupted(stop.signal_number or 15, "stopped; run the same command to start again")
    network.load_state_dict(ema.state_dict(), strict=False)
    return network.cpu().eval()


def _augment(pixels: torch.Tensor, *, seed: int, step: int, symmetries: Sequence[str]) -> torch.Tensor:
    """Allowed symmetries, small shifts with the border repeated, and changes of exposure."""
    rng = generator(seed, "encoder augmentation", step)
    count, reach = len(pixels), max(1, round(pixels.shape[-1] * _LARGEST_SHIFT))
    views = rng.integers(len(symmetries), size=count)
    shifts = rng.integers(-reach, reach + 1, size=(count, 2))
    exposure = torch.from_numpy(rng.standard_normal((count, 2)).astype(np.float32))
    padded = F.pad(pixels, (reach,) * 4, mode="replicate")
    size = pixels.shape[-1]
    moved = torch.stack([
        apply_symmetry(image[:, reach + dy:reach + dy + size, reach + dx:reach + dx + size], symmetries[view])
        for image, view, (dy, dx) in zip(padded, views, shifts, strict=True)
    ])
    contrast = (1 + _CONTRAST_STD * exposure[:, 0]).view(-1, 1, 1, 1)
    return moved * contrast + (_BRIGHTNESS_STD * exposure[:, 1]).view(-1, 1, 1, 1)


@torch.inference_mode()
def _score(network: Classifier, images: LabelledImages) -> dict[str, float | None]:
    labels = np.array([record.label for record in images.records])
    parts = [network(torch.stack([images[i][0] for i in range(start, min(start + 256, len(images)))])).softmax(dim=1)
             for start in range(0, len(images), 256)]
    probabilities = torch.cat(parts).double().numpy()
    correct = balanced_accuracy(labels, probabilities.argmax(axis=1))
    if len(np.unique(labels)) < probabilities.shape[1]:
        return {"balanced_accuracy": correct, "auc": None}  # a class has no image here
    area = (roc_auc_score(labels, probabilities[:, 1]) if probabilities.shape[1] == 2
            else roc_auc_score(labels, probabilities, multi_class="ovr"))
    return {"balanced_accuracy": correct, "auc": float(area)}


def _read_identity(output: Path) -> str | None:
    """What a finished folder was trained from; None where it is not finished or not whole."""
    try:
        record = json.loads((output / "training.json").read_text(encoding="utf-8"))
        whole = all(hash_file(output / name) == digest for name, digest in record["files_sha256"].items())
        return record["identity"] if whole else None
    except (OSError, ValueError, KeyError):
        return None


if __name__ == "__main__":
    run_command(main)
