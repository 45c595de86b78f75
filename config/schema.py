"""The configuration: one frozen dataclass per section; each key has a type, default, permitted values and meaning.

`load.py` fills these from YAML and checks single keys against the metadata given here. `list_contradictions` checks keys
that depend on each other. Nothing here reads a file.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.errors import escape_unprintable

CONDITION_TYPES = ("class", "context_class")
CONDITION_KINDS = ("nominal", "ordinal")
MANIFEST_COLUMNS = (  # of the table of synthetic images; the columns of the conditions follow
    "IMAGE_NAME", "label", "class_name", "seed", "sampler", "steps", "guidance_scale", "checkpoint_sha256",
    "rejected_copies",
)
SPLITS = ("train", "val", "test")
ONLY_CLASS = "all"  # the name of the class where the config names none
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"  # the weights that FID is defined with
SYMMETRIES = (
    "identity", "mirror", "flip", "rotate_180", "rotate_90", "rotate_270", "transpose", "anti_transpose",
)


class Names(Sequence[str]):
    """The names in a registry outside this package, imported when a value is first checked against them."""

    def __init__(self, read: Callable[[], Sequence[str]]) -> None:
        self._read = read

    def __len__(self) -> int:
        return len(self._read())

    def __getitem__(self, index: Any) -> Any:
        return self._read()[index]


def _list_samplers() -> tuple[str, ...]:
    from scheduler.samplers import SAMPLERS

    return tuple(SAMPLERS)


def _list_prediction_types() -> tuple[str, ...]:
    from scheduler.objectives import PREDICTION_TYPES

    return tuple(PREDICTION_TYPES)


def _list_flow_samplers() -> list[str]:
    from scheduler.samplers import SAMPLERS

    return [name for name, sampler in SAMPLERS.items() if not sampler.needs_betas]


EFFECTS = {
    "result": "the steps of the training depend on it: a resumed run may not change it",
    "later": "only further steps or what is made of the trained weights: a resumed run may change it, results depend on it",
    "speed": "how fast, how long to wait, how often to save: results do not depend on it",
    "place": "where something is on this machine: compared by its content, never shown to wandb",
}


def _key(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    choices: Sequence[str] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    numbers_as_text: bool = False,
    effect: str = "result",
    is_path: bool | None = None,
    is_free: bool = False,
    since: str | None = None,
) -> Any:
    """A field whose value, or each item of it, is checked against `choices` or the bounds; required if it has no default.

    A field of type `bool | str` accepts true and false besides its choices.

    `numbers_as_text` turns numbers in a list or mapping back into text. `effect` is one of EFFECTS; a section's effect
    holds for all its keys. `is_path` fills in `~` and environment variables; by default, values with the effect "place"
    are paths. `is_free` marks values of any kind, which may be paths. `since` is the version of a newer key: identities
    leave the key out while it has its default, so that older runs and studies keep their hashes.
    """
    assert effect in EFFECTS, effect
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    metadata = {"doc": doc, "choices": choices, "numbers_as_text": numbers_as_text, "is_free": is_free,
                "effect": effect, "is_path": effect == "place" if is_path is None else is_path, "since": since, **bounds}
    if isinstance(default, dict):
        frozen = dict(default)
        return dataclasses.field(default_factory=lambda: dict(frozen), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ConditionParams:
    """A value of `dataset_params.params.conditions`: the values that a column can have."""

    levels: tuple[str, ...] = _key(doc="the levels, in order", numbers_as_text=True)
    kind: str = _key("nominal", doc="whether the levels are ordered", choices=CONDITION_KINDS)


@dataclass(frozen=True)
class TableParams:
    """`dataset_params.params`: where the labels and images are, and how to read them."""

    root_dir: str = _key(doc="folder of the images", effect="place")
    csv_file: str | Mapping[str, str] | None = _key(
        None, doc="CSV or XLSX of labels, or one per split: {train:, val:, test:}; null if the folders name the "
                  "classes: root_dir/<class>/* or root_dir/<split>/<class>/*", effect="place"
    )
    im_channels: int = _key(1, doc="channels of the images: 1 gray, 3 colour", choices=("1", "3"))
    image_size: int = _key(64, doc="side in pixels to which images are resized", at_least=8, at_most=4096)
    um_per_px: float | None = _key(
        None, doc="micrometres per pixel of the prepared image, for measurements in micrometres", above=0,
        effect="later"
    )
    fit: str = _key("pad", doc="how a non-square image becomes square", choices=("pad", "crop", "stretch"))
    image_column: str = _key("IMAGE_NAME", doc="column of file names, with or without extension")
    label_column: str | None = _key(
        "blastocist", doc="column of labels: 0, 1, ... or a name of class_names; null where all images are of one class"
    )
    class_names: tuple[str, ...] = _key(
        ("no_blastocyst", "blastocyst"), doc="name of class 0, 1, ...; [] is short for one class, all, without label_column"
    )
    missing_labels: tuple[str, ...] = _key(
        (), doc="words of the label column that mean no label, in upper or lower case, such as [ND, NA, "
                "blank]; blank is a blank cell. Their rows are left out, with a note; other cells that are not a "
                "label are refused", numbers_as_text=True, effect="later",
    )
    unlabelled: str = _key(
        "refuse", doc="rows whose label is one of unlabelled_values; refuse: an error; train: the UNet and the VAE learn "
                      "from those of the training split without a label, and no class metric uses them",
        choices=("refuse", "train"), since="0.3",
    )
    unlabelled_values: tuple[str, ...] = _key(
        ("blank",), doc="words of the label column that mean no label, in upper or lower case; blank is a blank cell",
        numbers_as_text=True, since="0.3",
    )
    group_column: str | None = _key(None, doc="column of patient or embryo; a group is never split")
    split_column: str | None = _key(None, doc="column with train, val or test")
    split_fractions: Mapping[str, float] | None = _key(
        None, doc="fractions of the groups if no table names the split: {train: .7, val: .15, test: .15}",
        at_least=0, at_most=1,
    )
    val_from_train: float = _key(
        0.0, doc="fraction of the training groups for validation if the tables name no val", at_least=0, below=1
    )
    split_seed: int = _key(0, doc="seed of the random split", at_least=0)
    conditions: Mapping[str, ConditionParams] = _key(
        {}, doc="more conditions for the network: column: [levels in order], or column: {levels: [...], kind: "
                "nominal or ordinal}"
    )
    covariate_columns: tuple[str, ...] = _key(
        (), doc="columns kept as text for checks, not used by the network: clinic, microscope, date, age, ...",
        effect="later"
    )
    extra: Mapping[str, Any] = _key({}, doc="more keyword arguments for another `target` class", is_free=True)


@dataclass(frozen=True)
class DatasetParams:
    """`dataset_params`: the training data."""

    params: TableParams = _key(doc="the table of labels and the folder of images")
    load_latents: bool = _key(True, doc="true: train from the latent cache; false: encode images during training")
    condition_types: tuple[str, ...] = _key(
        ("class",), doc="how the class and the other conditions enter the network; class: added to the time embedding; "
                        "context_class: cross-attention, one token each", choices=CONDITION_TYPES
    )
    z_channels: int = _key(4, doc="channels of the latents", at_least=1)
    latent_size: int = _key(8, doc="side of the latents in latent pixels", at_least=1)
    lpips_path: str | None = _key(None, doc="LPIPS weights: a trunk, or a folder of trunk and linear head", effect="place")
    standardise_latents: bool = _key(
        True, doc="true: scale latents to zero mean and unit variance per channel; false: keep the scale of the VAE, as in "
                  "the published recipe"
    )
    target: str = _key("dataset.Embryo_loader.Embryo_loader", doc="data set class, as module.Class")
    directory_inception_features: str = _key("runs/features", doc="folder of the cached encoder features", effect="place")
    directory_latents: str = _key("runs/latents", doc="folder of the latent caches", effect="place")
    symmetries: tuple[str, ...] = _key(
        ("identity", "mirror"), doc="views cached and trained on. List those that the optics allow, or any with "
                                    "symmetry_conditioning", choices=SYMMETRIES
    )
    symmetry_conditioning: bool = _key(
        False, doc="false: the symmetries are plain augmentation; true: the network gets the view (identity in validation "
                   "and sampling), so that views which the optics do not allow may be listed too"
    )

    @property
    def plain_symmetries(self) -> tuple[str, ...]:
        """The views that count as real images for networks that are not told which view they see."""
        return ("identity",) if self.symmetry_conditioning else self.symmetries


@dataclass(frozen=True)
class TrainParams:
    """`train_params`: how the UNet is trained."""

    task_name: str = _key(doc="folder of the run: checkpoints, logs, samples", effect="place")
    seed: int = _key(1111, doc="seed of all randomness in training", at_least=0)
    ldm_batch_size: int = _key(24, doc="images per optimizer step, over all processes and micro-steps", at_least=1)
    num_samples: int = _key(4, doc="images generated at each validation, spread over the classes", at_least=1,
                            effect="later")
    ldm_validate_epochs: int = _key(4, doc="epochs between validations", at_least=1)
    ldm_lr: float = _key(5e-4, doc="peak learning rate", above=0)
    ldm_ckpt_name: str = _key("ddpm_ckpt.safetensors", doc="file of the best EMA weights, in safetensors format")
    resume_training: bool = _key(True, doc="resume where the run stopped, or start it", effect="speed")
    start_from: str | None = _key(
        None, doc="weights of another run to start from, a file or the folder of the run; its classes and conditions are "
                  "matched by name", effect="place", since="0.3",
    )
    start_from_other_vae: bool = _key(
        False, doc="True: start_from may have been trained on another VAE's latents; the first and last layers start anew",
        since="0.3",
    )
    epochs: int = _key(100, doc="passes over the training images", at_least=1, effect="later")
    max_steps: int | None = _key(None, doc="cap on optimizer steps", at_least=1, effect="later")
    label_dropout: float = _key(
        0.2, doc="probability that the label and all conditions become null; after that, each condition alone becomes null "
                 "with the same probability", at_least=0, below=1
    )
    balanced_sampling: float = _key(
        0.0, doc="strength s: the frequency of a class of n images is proportional to n^(1 - s); 0: as in the data; 1: all "
                 "equally frequent; 0.5: by the root of n. Does not change label drops or the prior of sampling",
        at_least=0, at_most=1,
    )
    ema_decay: float = _key(0.9995, doc="decay of the weights' moving average; 0: no average", at_least=0, below=1)
    ema_relative_length: float | None = _key(
        None, doc="width of the average as a fraction of the steps so far, instead of ema_decay: it grows with the "
                  "training. 0.05 to 0.2 are usual", at_least=0.01, at_most=0.28,
    )
    lr_schedule: str = _key("cosine", doc="learning rate after the warm-up", choices=("constant", "cosine", "linear"))
    warmup_steps: int = _key(100, doc="steps over which the learning rate rises from 0", at_least=0)
    weight_decay: float = _key(0.0, doc="AdamW's weight decay", at_least=0)
    adam_betas: tuple[float, ...] = _key((0.9, 0.99), doc="AdamW's betas", at_least=0, below=1)
    clip_grad_norm: float = _key(1.0, doc="largest gradient norm; 0: no clipping", at_least=0)
    gradient_accumulation_steps: int = _key(1, doc="micro-steps into which each process splits its batch", at_least=1)
    compile_mode: str = _key("off", doc="torch.compile of the UNet's training: pays in long runs; reduce-overhead adds CUDA "
                             "graphs", choices=("off", "default", "reduce-overhead"), effect="later")
    mixed_precision: str = _key("no", doc="precision of the UNet's forward pass", choices=("no", "fp16", "bf16"))
    checkpoint_interval_steps: int = _key(500, doc="optimizer steps between resume checkpoints", at_least=1,
                                          effect="speed")
    keep_last_checkpoints: int = _key(2, doc="resume checkpoints kept", at_least=1, effect="speed")
    selection_metric: str = _key(
        "ema_validation_loss", doc="how the best weights are chosen", choices=("ema_validation_loss", "last")
    )
    validation_draws: int = _key(4, doc="fixed noise samples per held-out image at each validation", at_least=1)


@dataclass(frozen=True)
class DiffusionParams:
    """`diffusion_params`: the forward process and the training objective."""

    num_timesteps: int = _key(1000, doc="steps of the forward process", at_least=2)
    beta_start: float = _key(0.0015, doc="noise variance of the first step", above=0, below=1)
    beta_end: float = _key(0.0195, doc="noise variance of the last step", above=0, below=1)
    schedule: str = _key("scaled_linear", doc="how beta grows; rectified_flow has no betas and mixes latent and noise "
                         "linearly", choices=("linear", "scaled_linear", "cosine", "rectified_flow"))
    prediction_type: str = _key("v", doc="what the network predicts; velocity requires rectified_flow",
                                choices=Names(_list_prediction_types))
    timestep_sampling: str = _key(
        "stratified", doc="how training samples timesteps; stratified: the time axis is cut into as many equal parts as the "
                          "batch has images, one timestep from each; uniform: independently; logit_normal: stratified, more "
                          "often in the middle", choices=("stratified", "uniform", "logit_normal")
    )
    logit_mean: float = _key(0.0, doc="mean of logit(t/T) of logit_normal")
    logit_std: float = _key(1.0, doc="standard deviation of logit(t/T) of logit_normal", above=0)
    channel_weighting: str = _key(
        "uniform", doc="weight of a latent channel's loss; signal: its fraction of variance that is not the VAE's noise, "
                       "because a channel that the VAE does not use cannot be predicted", choices=("uniform", "signal")
    )
    loss_weighting: str = _key("uniform", doc="weight of a timestep's loss", choices=("uniform", "min_snr"))
    min_snr_gamma: float = _key(5.0, doc="gamma of min_snr", above=0)


@dataclass(frozen=True)
class UNetParams:
    """`unet_params`: the shape of the network."""

    channels: tuple[int, ...] = _key(
        (64, 128), doc="width of each level, finest first; the last is the middle block", at_least=1
    )
    num_layers: int = _key(2, doc="residual blocks per level, down and up, and in the middle", at_least=1)
    attention: tuple[bool, ...] = _key((False, True), doc="attention at each level")
    num_heads: int = _key(4, doc="attention heads", at_least=1)
    time_embedding_dim: int = _key(256, doc="width of the time embedding", at_least=2)
    context_dim: int = _key(256, doc="width of a context token (context_class)", at_least=1)
    norm_groups: int = _key(32, doc="groups of each group normalisation", at_least=1)
    dropout: float = _key(0.0, doc="dropout in the residual blocks", at_least=0, below=1)
    pretrained: str | None = _key(
        None, doc="UNet2DConditionModel of Stable Diffusion 1 or 2 to start from, a diffusers folder or hub id; the keys "
                  "above then do not count, and its schedule and latent scale hold", effect="place", since="0.3",
    )
    tokens_per_class: int = _key(
        4, doc="learned context tokens a class, and a condition, in place of a prompt (pretrained)", at_least=1,
        since="0.3",
    )
    text_encoder: str | None = _key(
        None, doc="folder with CLIP's text_encoder and tokenizer, whose reading of `prompts` the tokens start from "
                  "(pretrained); null: small random ones", effect="place", since="0.3",
    )
    prompts: Mapping[str, str] = _key({}, doc="text for each class (text_encoder); the null label's is empty", since="0.3")
    lora_rank: int | None = _key(None, doc="rank of LoRA adapters (pretrained); null trains all weights", at_least=1,
                                 since="0.3")
    lora_alpha: float | None = _key(None, doc="scale of LoRA updates; null is the rank", above=0, since="0.3")
    lora_targets: tuple[str, ...] = _key(
        ("to_q", "to_k", "to_v", "to_out.0"), doc="layers that get adapters, by the ends of their names", since="0.3"
    )
    gradient_checkpointing: bool = _key(
        False, doc="compute activations again in the backward pass: less memory, a third slower (pretrained)",
        effect="speed", since="0.3",
    )


@dataclass(frozen=True)
class AutoencoderTrainingParams:
    """`autoencoder_params.training`: what `python -m tools.train_vae` trains."""

    output: str = _key("runs/vae", doc="diffusers folder that train_vae writes", effect="place")
    fine_tune: bool = _key(False, doc="start from `pretrained` instead of fresh weights")
    channels: tuple[int, ...] = _key((16, 32, 64), doc="width of each level; one halving fewer than levels", at_least=1)
    num_layers: int = _key(1, doc="residual blocks per level", at_least=1)
    norm_groups: int = _key(16, doc="groups of each group normalisation", at_least=1)
    max_minutes: float | None = _key(
        10.0, doc="minutes of training, resumed runs included; null: only max_steps ends it, so that the run can be "
                  "repeated exactly", above=0, effect="later"
    )
    max_steps: int = _key(20000, doc="optimizer steps at most", at_least=1, effect="later")
    batch_size: int = _key(8, doc="images per step", at_least=1)
    lr: float | None = _key(None, doc="peak learning rate; null: 0.001 for fresh weights, 0.0001 with fine_tune", above=0)
    kl_weight: float = _key(
        1e-4, doc="weight of the mean KL divergence of a latent value; unused if the VAE has no posterior", at_least=0
    )
    perceptual_weight: float = _key(0.0, doc="weight of LPIPS; needs lpips_path", at_least=0)
    adversarial_weight: float = _key(0.3, doc="weight of the patch discriminator, which restores the grain", at_least=0)
    texture_weight: float = _key(
        0.05, doc="weight of the difference in mean and spread of the discriminator's features, per image", at_least=0
    )
    adversarial_start: float = _key(0.5, doc="fraction of the training after which the discriminator joins", at_least=0,
                                    at_most=1)

    @property
    def peak_lr(self) -> float:
        """The learning rate in effect."""
        return self.lr or (1e-4 if self.fine_tune else 1e-3)


@dataclass(frozen=True)
class AutoencoderParams:
    """`autoencoder_params`: the pretrained, frozen VAE."""

    pretrained: str = _key(doc="diffusers autoencoder: a local folder or a hub id", effect="place")
    subfolder: str | None = _key(None, doc="folder inside `pretrained`, such as vae", effect="place", is_path=False)
    batch_size: int = _key(16, doc="images encoded or decoded at once", at_least=1, effect="speed")
    training: AutoencoderTrainingParams = _key(AutoencoderTrainingParams(), doc="what train_vae trains",
                                               effect="later")


@dataclass(frozen=True)
class SampleParams:
    """`sample_params`: what the sampling script generates."""

    sampler: str = _key("dpm-solver++", doc="how the reverse process is solved", choices=Names(_list_samplers))
    num_steps: int = _key(20, doc="steps of the sampler", at_least=1)
    guidance_scale: float = _key(1.0, doc="w in uncond + w (cond - uncond); 1: no guidance", at_least=0)
    guide_checkpoint: str | None = _key(
        None, doc="weights of a weaker model, such as an earlier or smaller one of the same kind, used instead of "
                  "uncond (autoguidance)", effect="place"
    )
    guidance_interval: tuple[float, ...] = _key(
        (0.0, 1.0), doc="part of the time axis t/T in which guidance acts", at_least=0, at_most=1
    )
    per_class: int | None = _key(None, doc="images per class; excludes num_images", at_least=1)
    num_images: int | None = _key(None, doc="images in all, at the training split's class prior", at_least=1)
    batch_size: int = _key(64, doc="images generated at once", at_least=1, effect="speed")
    seed: int = _key(0, doc="seed of the initial noise of every image", at_least=0)
    conditions: Mapping[str, str] = _key(
        {}, doc="fixed levels, {column: level}; other levels follow their prior given the class",
        numbers_as_text=True,
    )
    output: str | None = _key(None, doc="folder of the images; default <task_name>/samples", effect="place")


@dataclass(frozen=True)
class GanParams:
    """`gan_params`: the baseline GAN that `python -m tools.train_gan` trains."""

    output: str = _key("runs/gan", doc="folder of the GAN: weights, log, samples", effect="place")
    max_steps: int = _key(20000, doc="steps of generator and discriminator", at_least=1, effect="later")
    batch_size: int = _key(16, doc="images per step", at_least=1)
    width: int = _key(32, doc="channels at the finest level, doubled down to 4 px, at most 256; a multiple of 8", at_least=8)
    lr: float = _key(2e-4, doc="learning rate of both networks", above=0)
    r1_weight: float = _key(1.0, doc="weight of the penalty on the discriminator's gradient", at_least=0)
    ema_decay: float = _key(0.999, doc="decay of the generator's moving average", at_least=0, below=1)
    augment: bool = _key(True, doc="differentiable augmentation of what the discriminator sees: brightness, contrast, "
                                   "shift, cutout; flips and turns are dataset_params.symmetries")


@dataclass(frozen=True)
class EvaluationParams:
    """`evaluation_params`: what is measured, and with what."""

    encoders: tuple[str, ...] = _key(
        ("inception",),
        doc="feature encoders besides the untrained ones, which are always added; the verdict uses the least favourable",
        choices=("inception", "squeezenet1_1", "classifier", "dinov2", "vae", "untrained_conv", "untrained_texture"),
    )
    real_split: str = _key("test", doc="held-out images to compare with", choices=("val", "test"))
    inception_path: str | None = _key(None, doc=f"official Inception weights ({INCEPTION_FILE})", effect="place")
    inception_preset: str = _key("tf1", doc="resizing for Inception, as torch-fidelity, clean-fid or pytorch-fid do it",
                                choices=("tf1", "clean", "pytorch"))
    allow_download: bool | str = _key(
        False, doc="whether to download published weights for FID, KID and LPIPS that are neither given nor in torch's "
                   "cache: auto gives up after 5 seconds without an answer, true after a minute", choices=("auto",),
    )
    squeezenet_path: str | None = _key(None, doc="squeezenet1_1 ImageNet weights", effect="place")
    squeezenet_preset: str = _key(
        "imagenet-min224", doc="images are enlarged to at least this side in px: min64 is faster and less sensitive",
        choices=("imagenet-min224", "imagenet-min64"),
    )
    dinov2_path: str | None = _key(None, doc="DINOv2 in transformers' format: a local folder or a hub id", effect="place")
    classifier_path: str | None = _key(None, doc="classifier for in-domain features, made by train_encoder", effect="place")
    judge_path: str | None = _key(
        None, doc="separately trained classifier that judges the class of images; the judges of other conditions are beside "
                  "it, in <judge_path>_<condition>", effect="place"
    )
    batch_size: int = _key(32, doc="images encoded at once", at_least=1, effect="speed")
    max_pairs: int = _key(20000, doc="image pairs in each LPIPS or SSIM value", at_least=1)
    repeats: int = _key(50, doc="subsamples behind each range of a Fréchet distance", at_least=2)
    bootstrap_repeats: int = _key(1000, doc="bootstrap samples behind each interval of a kernel distance", at_least=2)


@dataclass(frozen=True)
class LoggingParams:
    """`logging_params`: what is displayed and logged."""

    wandb_mode: str = _key("offline", doc="whether wandb uploads, only stores, or is off",
                           choices=("online", "offline", "disabled"))
    wandb_project: str = _key("blastdiffusion", doc="wandb project")
    interval_steps: int = _key(20, doc="optimizer steps between log rows", at_least=1)
    progress_bar: bool = _key(True, doc="progress bars on a terminal")


@dataclass(frozen=True)
class LaunchParams:
    """`launch_params`: how long processes that were started together wait for each other."""

    rendezvous_minutes: float = _key(10.0, doc="minutes to wait at the start until all processes are ready", above=0)
    collective_minutes: float = _key(
        30.0, doc="minutes to wait for a process that hangs; then it is named and the others end", above=0
    )


@dataclass(frozen=True)
class Config:
    """The whole configuration; raw dictionaries stay inside `load.py`."""

    dataset_params: DatasetParams = _key(doc="the training data")
    train_params: TrainParams = _key(doc="how the UNet is trained")
    autoencoder_params: AutoencoderParams = _key(doc="the pretrained VAE")
    diffusion_params: DiffusionParams = _key(DiffusionParams(), doc="the forward process and the objective")
    unet_params: UNetParams = _key(UNetParams(), doc="the shape of the network")
    sample_params: SampleParams = _key(SampleParams(), doc="what is generated", effect="later")
    gan_params: GanParams = _key(GanParams(), doc="the baseline GAN", effect="later")
    evaluation_params: EvaluationParams = _key(EvaluationParams(), doc="what is measured, and with what", effect="later")
    logging_params: LoggingParams = _key(LoggingParams(), doc="what is displayed and logged", effect="later")
    launch_params: LaunchParams = _key(LaunchParams(), doc="how long processes wait for each other",
                                       effect="speed")

    @property
    def num_classes(self) -> int:
        return len(self.dataset_params.params.class_names)


def _list_metadata(cls: type, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for field in dataclasses.fields(cls):
        yield f"{prefix}{field.name}", field.metadata
        if dataclasses.is_dataclass(field.type):
            yield from _list_metadata(field.type, f"{prefix}{field.name}.")


_METADATA = dict(_list_metadata(Config))


def effect_of(key: str) -> str:
    """The effect of "section" or "section.key" from its own metadata; "result" if there is no such key."""
    return _METADATA[key]["effect"] if key in _METADATA else "result"


def names_a_place(key: str) -> bool:
    """Whether the value of "section.key" is, or may be, a path on this machine."""
    return key in _METADATA and (_METADATA[key]["effect"] == "place" or _METADATA[key]["is_free"])


def name_for_files(name: str) -> str:
    """A user's name as part of a file name: letters, digits and _, in lower case."""
    return re.sub(r"\W", "_", name).casefold()


def list_contradictions(config: Config) -> list[str]:
    """Keys that contradict each other, with the remedy: the first ones of each group of keys, [] where all agree."""
    data, train, sample = config.dataset_params, config.train_params, config.sample_params
    groups = (
        _check_classes(data.params), _check_conditions(data, sample), _check_latents(data),
        _check_network(data, train, config.unet_params), _check_training(train), _check_diffusion(config.diffusion_params),
        _check_sampling(train, sample, config.diffusion_params), _check_evaluation(config.evaluation_params),
        _check_others(data, config.gan_params, config.autoencoder_params.training),
    )
    found = (next((message for holds, message in group if not holds), None) for group in groups)
    return [escape_unprintable(message) for message in found if message is not None]


# Each yields a requirement and the message if it is not met; a later requirement may rely on earlier ones.
Requirements = Iterator[tuple[bool, str]]


def _check_classes(table: TableParams) -> Requirements:
    per_split_tables = isinstance(table.csv_file, Mapping)
    alike = sorted(set(map(str.casefold, table.unlabelled_values)) & set(map(str.casefold, table.missing_labels)))
    yield (table.unlabelled == "refuse" or not alike, "dataset_params.params: missing_labels leaves rows out that "
           f"unlabelled: train would learn from ({', '.join(alike)}); take these words out of one of the two")
    yield (table.unlabelled == "refuse" or table.label_column is not None, "dataset_params.params.unlabelled: without a "
           "label_column no image has a label to lack; set it to refuse")
    yield (table.label_column is not None or len(table.class_names) == 1, "dataset_params.params.label_column: expected a "
           f"column, found null and class_names {list(table.class_names)}; name the column, or set class_names to []")
    yield (len(set(table.class_names)) == len(table.class_names),
           f"dataset_params.params.class_names: expected different names, found {list(table.class_names)}")
    yield (all(name.isprintable() for name in table.class_names),
           f"dataset_params.params.class_names: expected names without line breaks and control characters, found "
           f"{list(table.class_names)}")
    if per_split_tables:
        unknown = sorted(set(table.csv_file) - set(SPLITS))
        yield (not unknown and "train" in table.csv_file,
               f"dataset_params.params.csv_file: expected a path, or paths under train, val and test, "
               f"found {sorted(table.csv_file)}")
    yield (sum((per_split_tables, table.split_column is not None, table.split_fractions is not None)) <= 1,
           "dataset_params.params: the split comes from csv_file per split, split_column or split_fractions; "
           "give only one of them")
    if table.split_fractions is not None:
        fractions = table.split_fractions
        yield (not set(fractions) - set(SPLITS) and abs(sum(fractions.values()) - 1) < 1e-6
               and fractions.get("train", 0) > 0,
               f"dataset_params.params.split_fractions: expected train, val and test that add up to 1 with train "
               f"above 0, found {dict(fractions)}")


def _check_conditions(data: DatasetParams, sample: SampleParams) -> Requirements:
    table = data.params
    for name, condition in table.conditions.items():
        key, levels = f"dataset_params.params.conditions.{name}", condition.levels
        yield (name == name.strip() and name not in (table.label_column, table.image_column),
               f"{key}: expected a further column, not the label's or the image's, without spaces around its name")
        yield (len(set(levels)) == len(levels) >= 2, f"{key}: expected two levels or more, all different, found "
               f"{list(levels)}")
        yield (all(level == level.strip() for level in levels),
               f"{key}: found spaces around levels, {list(levels)}; remove them")
        yield (name not in MANIFEST_COLUMNS, f"{key}: the table of synthetic images has a column of this name already; "
               "rename the column")
    by_file_name: dict[str, str] = {}
    for name in table.conditions:
        first = by_file_name.setdefault(name_for_files(name), name)
        yield (first == name, f"dataset_params.params.conditions.{name}: its judge and its grids would be saved under the "
               f"names of {first}'s files (signs count as _, upper and lower case as the same); rename a column")
    for name, level in sample.conditions.items():
        yield (name in table.conditions, f"sample_params.conditions.{name}: expected a name of "
               f"dataset_params.params.conditions, found {list(table.conditions)} there")
        yield (name not in table.conditions or level in table.conditions[name].levels,
               f"sample_params.conditions.{name}: expected one of "
               f"{list(table.conditions[name].levels) if name in table.conditions else []}, found {level!r}")
    yield (not data.symmetry_conditioning or len(data.symmetries) > 1,
           "dataset_params.symmetry_conditioning: expected several symmetries, found identity only")
    yield (len(set(table.covariate_columns)) == len(table.covariate_columns),
           f"dataset_params.params.covariate_columns: expected each column once, found {list(table.covariate_columns)}")


def _check_latents(data: DatasetParams) -> Requirements:
    yield (len(data.condition_types) > 0, "dataset_params.condition_types: expected class, context_class or both")
    yield (data.symmetries[:1] == ("identity",), "dataset_params.symmetries: expected identity first, "
           f"found {list(data.symmetries)}")
    yield (data.params.image_size % data.latent_size == 0,
           f"dataset_params.latent_size {data.latent_size} does not divide params.image_size {data.params.image_size}")
    yield (data.target.count(".") >= 1, f"dataset_params.target: expected module.Class, found {data.target!r}")


def _check_network(data: DatasetParams, train: TrainParams, unet: UNetParams) -> Requirements:
    if unet.pretrained is not None:
        yield from _check_pretrained(data, train, unet)
        return
    yield (unet.lora_rank is None, "unet_params.lora_rank: adapters are for a pretrained UNet; name unet_params.pretrained")
    levels = len(unet.channels)
    yield (levels > 0, "unet_params.channels: expected one level or more, found []")
    yield ("context_class" not in data.condition_types or any(unet.attention),
           "unet_params.attention: context_class acts through attention, and no level has any")
    yield (len(unet.attention) == levels,
           f"unet_params.attention: expected one value per level of channels ({levels}), found {len(unet.attention)}")
    for channels in unet.channels:
        yield (channels % unet.norm_groups == 0,
               f"unet_params.channels: {channels} is not a multiple of norm_groups {unet.norm_groups}")
        yield (channels % unet.num_heads == 0,
               f"unet_params.channels: {channels} is not a multiple of num_heads {unet.num_heads}")
    yield (unet.time_embedding_dim % 2 == 0, f"unet_params.time_embedding_dim: expected an even number, found "
           f"{unet.time_embedding_dim}")
    yield (data.latent_size % 2 ** max(levels - 1, 0) == 0,
           f"dataset_params.latent_size {data.latent_size} cannot be halved {levels - 1} times for the "
           f"{levels} levels of unet_params.channels")


def _check_pretrained(data: DatasetParams, train: TrainParams, unet: UNetParams) -> Requirements:
    yield (data.condition_types == ("context_class",), "dataset_params.condition_types: expected [context_class] for a "
           f"pretrained UNet, which takes the class as context tokens, found {list(data.condition_types)}")
    yield (train.start_from is None, "train_params.start_from and unet_params.pretrained exclude each other: both say which "
           "weights to start from; remove one of them")
    yield (set(unet.prompts) <= set(data.params.class_names), "unet_params.prompts: expected names of class_names "
           f"{list(data.params.class_names)}, found {list(unet.prompts)}")
    yield (unet.text_encoder is None or set(unet.prompts) == set(data.params.class_names), "unet_params.prompts: expected a "
           f"prompt for each class, since text_encoder is given, found {list(unet.prompts)}")


def _check_training(train: TrainParams) -> Requirements:
    yield (train.ldm_batch_size % train.gradient_accumulation_steps == 0,
           f"train_params.ldm_batch_size {train.ldm_batch_size} is not a multiple of gradient_accumulation_steps "
           f"{train.gradient_accumulation_steps}")
    yield (len(train.adam_betas) == 2,
           f"train_params.adam_betas: expected two numbers, found {list(train.adam_betas)}")
    yield (train.ema_relative_length is None or train.ema_decay > 0,
           "train_params.ema_relative_length is given and ema_decay 0 says no average; remove one of them")


def _check_diffusion(diffusion: DiffusionParams) -> Requirements:
    yield diffusion.beta_start < diffusion.beta_end, "diffusion_params.beta_start must be below beta_end"
    flow = diffusion.schedule == "rectified_flow"
    yield (flow == (diffusion.prediction_type == "velocity"),
           f"diffusion_params.schedule {diffusion.schedule} does not go with prediction_type {diffusion.prediction_type}: "
           "rectified_flow and velocity go together")
    yield (diffusion.schedule != "cosine" or diffusion.prediction_type != "epsilon",
           "diffusion_params.schedule cosine does not go with prediction_type epsilon: its last timestep keeps 0.00005 of "
           "the signal, by which an error in epsilon would be divided; choose v or x0")
    yield (not flow or diffusion.loss_weighting == "uniform",
           "diffusion_params.loss_weighting min_snr does not go with schedule rectified_flow; choose uniform")


def _check_sampling(train: TrainParams, sample: SampleParams, diffusion: DiffusionParams) -> Requirements:
    flow = diffusion.schedule == "rectified_flow"
    yield (sample.num_steps <= diffusion.num_timesteps,
           f"sample_params.num_steps {sample.num_steps} is above diffusion_params.num_timesteps {diffusion.num_timesteps}")
    yield (not flow or sample.sampler in _list_flow_samplers(),
           f"sample_params.sampler {sample.sampler} does not go with diffusion_params.schedule rectified_flow; choose "
           f"{' or '.join(_list_flow_samplers())}")
    yield (sample.guidance_scale == 1 or train.label_dropout > 0 or sample.guide_checkpoint is not None,
           f"sample_params.guidance_scale {sample.guidance_scale} needs a trained null label: set "
           "train_params.label_dropout above 0, or guidance_scale to 1, or give guide_checkpoint")
    yield (sample.guide_checkpoint is None or sample.guidance_scale != 1,
           "sample_params.guide_checkpoint acts with a guidance_scale other than 1 only; raise it, or give no guide")
    yield (len(sample.guidance_interval) == 2 and sample.guidance_interval[0] <= sample.guidance_interval[-1],
           f"sample_params.guidance_interval: expected [low, high], found {list(sample.guidance_interval)}")
    yield (sample.per_class is None or sample.num_images is None,
           "sample_params.per_class and num_images exclude each other; set one of them to null")


def _check_evaluation(evaluation: EvaluationParams) -> Requirements:
    yield (len(evaluation.encoders) > 0, "evaluation_params.encoders: expected one encoder or more")
    judge, classifier = (None if path is None else os.path.abspath(path)  # noqa: PTH100 - without looking at the disk
                         for path in (evaluation.judge_path, evaluation.classifier_path))
    yield (judge is None or judge != classifier,
           "evaluation_params.judge_path is classifier_path: the judge must be trained separately from the encoder")


def _check_others(data: DatasetParams, gan: GanParams, training: AutoencoderTrainingParams) -> Requirements:
    yield gan.width % 8 == 0, f"gan_params.width: expected a multiple of 8, found {gan.width}"
    yield (training.perceptual_weight == 0 or data.lpips_path is not None,
           "autoencoder_params.training.perceptual_weight needs dataset_params.lpips_path")
    yield (len(training.channels) > 0, "autoencoder_params.training.channels: expected one level or more, found []")
    yield (all(width % training.norm_groups == 0 for width in training.channels),
           f"autoencoder_params.training.channels: every width must be a multiple of norm_groups "
           f"{training.norm_groups}, found {list(training.channels)}")
