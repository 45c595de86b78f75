"""Which networks drawing and evaluation read beside the model itself: their content, and whether the first can be had."""

from collections.abc import Iterator
from pathlib import Path

import torch

from config.errors import UserError
from config.schema import Config
from dataset.storage import hash_file
from models.classifier import WEIGHTS_FILE
from tools.diffusion.data import find_autoencoder
from tools.evaluation.encoders.encoder import Encoder, load_encoder
from tools.evaluation.encoders.feature_kinds import FeatureKind, kind_of
from tools.evaluation.encoders.published_weights import find_published
from tools.evaluation.encoders.untrained import DEFINITIONS, UNTRAINED
from tools.evaluation.judges import find_condition_judge


def hash_evaluation_weights(config: Config) -> list[str]:
    """sha256 of every weight file that is there: classifiers, encoders, LPIPS, a guide of sampling; and of what defines the
    untrained encoders.

    Files of torch's hub cache count with `allow_download: auto` only, so that keys of other configs stay what they were.
    """
    evaluation = config.evaluation_params
    judges = [find_condition_judge(config, name) for name in config.dataset_params.params.conditions]
    classifiers = [Path(folder) / WEIGHTS_FILE for folder in (evaluation.judge_path, evaluation.classifier_path, *judges)
                   if folder is not None]
    others = [Path(path) for path in (evaluation.inception_path, evaluation.squeezenet_path, evaluation.dinov2_path,
                                      config.dataset_params.lpips_path, config.sample_params.guide_checkpoint) if path]
    others += find_published(config)[0] if evaluation.allow_download == "auto" else []
    untrained = [definition.sha256() for definition in DEFINITIONS.values()]
    return [*(digest for path in (*classifiers, *others) for digest in hash_weights(path)), *untrained]


def hash_weights(path: Path | str) -> list[str]:
    """sha256 of a file of weights, or of each below a folder."""
    return [hash_file(file) for file in _list_files(Path(path))]


def list_encoders(config: Config) -> list[str]:
    """Names of the encoders of an evaluation, each once: the config's, then the untrained ones, which need no file."""
    return list(dict.fromkeys([*config.evaluation_params.encoders, *UNTRAINED]))


def open_encoder(config: Config, name: str, *, vae_folder: Path, device: torch.device | str = "cpu") -> Encoder:
    """The named encoder with the config's weights and preset.

    Raises:
        UserError: weights missing, unreadable or of another network.
    """
    params = config.evaluation_params
    paths = {"inception": params.inception_path, "squeezenet1_1": params.squeezenet_path,
             "classifier": params.classifier_path, "dinov2": params.dinov2_path, "vae": vae_folder}
    presets = {"inception": params.inception_preset, "squeezenet1_1": params.squeezenet_preset}
    return load_encoder(name, weights_path=paths.get(name), preset=presets.get(name), device=device)


def require_first_published(config: Config) -> None:
    """See to it that published features that the config puts first take part in a choice, and untrained ones do not decide
    alone because a file is missing.

    Raises:
        UserError: the first encoder is a published one and cannot be opened.
    """
    name = config.evaluation_params.encoders[0]
    if kind_of(name) is FeatureKind.IN_DOMAIN:  # it has no say in a choice
        return
    try:
        open_encoder(config, name, vae_folder=find_autoencoder(config))
    except UserError as error:
        raise UserError(f"evaluation_params.encoders: the first, {name}, takes part in the choice and cannot be opened: "
                        f"{error}. Fix this, or list another encoder first") from error


def _list_files(path: Path) -> Iterator[Path]:
    """The file, or those in the folder, in order; none where nothing is there."""
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
