"""The runs of a study: training, drawing and evaluating an arm through this project's commands, several at a time.

What is done is known by its content, so that a study that was stopped goes on, and one whose images, VAE or keys changed
does again what depends on them.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.errors import UserError
from config.load import config_to_identity, load_config
from config.schema import Config, effect_of
from dataset.storage import hash_file, hash_json, read_json, write_json
from tools.diffusion.gan_training import METHOD as GAN_METHOD
from tools.diffusion.project import Project
from tools.diffusion.warm_start import find_weights
from tools.evaluation.assess import METHOD
from tools.evaluation.encoders.config_weights import hash_evaluation_weights
from tools.runtime.run_directory import RunDirectory, keys_of_results
from tools.runtime.stages import DIVERGED, DoneRecord, Stage, as_options, our_command, run_stages
from tools.study.plan import Arm, Study

_MANY_EPOCHS = 1_000_000  # max_steps ends every run
_LOG_NAME, _DIVERGED_NAME = "log.txt", "diverged.json"
_TRAIN = {"diffusion": "train_ddpm_cond.py", "gan": "tools.train_gan"}
_SAMPLE = {"diffusion": "sample_ddpm_class_cond.py", "gan": "tools.sample_gan", "augment_real": "tools.augment_real"}
_METHODS = {"diffusion": 1, "gan": GAN_METHOD, "augment_real": 2}  # raised where the same keys give other images
_SPEED_METHOD = 2  # raised where the same loop would be timed otherwise
_DATA_COST = ("z_channels", "latent_size", "condition_types", "load_latents")
_TRAIN_COST = ("ldm_batch_size", "gradient_accumulation_steps", "compile_mode", "mixed_precision")


@dataclass(frozen=True)
class ArmRun:
    """One training of an arm, which determines its images."""

    arm: Arm
    steps: int
    seed: int

    def __str__(self) -> str:
        return f"{self.arm.name}, {self.steps} steps, seed {self.seed}"


class StudyRuns:
    """Runs the arms of a study, `jobs` at a time, each with its share of the processor's cores."""

    def __init__(self, study: Study, *, jobs: int = 1) -> None:
        self._study, self._jobs = study, jobs
        self._inputs: dict[str, str] = {}

    def config_of(self, arm: Arm, own: Sequence[str] = ()) -> Config:
        """The arm's config.

        Raises:
            UserError: keys or values that no config takes, with the arm's name.
        """
        try:
            return load_config(self._study.base, self._overrides(arm, own))
        except UserError as error:
            raise UserError(f"arm {arm.name}: {error}") from error

    def identity(self, arms: Sequence[Arm]) -> str:
        """Hash of the keys of these arms and of the images, labels and weights behind them."""
        configs = [self.config_of(arm) for arm in arms]
        return hash_json([METHOD, *([
            arm.name, _name_method(arm.generator), keys_of_results(config), self._hash_inputs(config),
            hash_evaluation_weights(config)] for arm, config in zip(arms, configs, strict=True))])

    def seconds_per_step(self, arm: Arm) -> float:
        """Measured once for each size of network and batch, with all cores, and kept, so that the number of steps, and with
        it every run, stays the same ever after; 1 where nothing trains."""
        if arm.generator not in _TRAIN:
            return 1.0
        run = ArmRun(arm, self._study.calibration_steps, self._study.seeds[0])
        folder = Path(self._study.output) / "trainings" / f"{hash_cost(arm.generator, self.config_of(arm))}.speed"
        kept = folder / "speed.json"
        if not kept.is_file():
            shutil.rmtree(folder, ignore_errors=True)  # a run that was killed has steps behind it that were not timed
            command = self._command(_TRAIN[arm.generator], run, own=_keys_of_training(run, folder))
            run_stages([_stage(f"measuring the speed of {arm.name}", folder, command)])
            config = self.config_of(arm)
            batch = config.gan_params.batch_size if arm.generator == "gan" else config.train_params.ldm_batch_size
            rate = read_json(RunDirectory(folder).timing)["settled_images_per_second"]
            write_json(kept, {"seconds_per_step": batch / rate})
        return float(read_json(kept)["seconds_per_step"])

    def evaluate(self, runs: Sequence[ArmRun], split: str) -> list[dict[str, Any]]:
        """Train and sample whatever is missing, `jobs` at a time, then evaluate one after the other.

        Each evaluation.json, or what a training that diverged said, under `DIVERGED`.
        """
        missing = [run for run in runs if self._sampled(run).read() is None and not self._diverged(run)]
        trained: dict[Path, Stage] = {}
        for run in missing:
            if run.arm.generator in _TRAIN:
                folder = self._training(run)
                trained.setdefault(folder, _stage(str(run), folder, self._command(_TRAIN[run.arm.generator], run)))
        run_stages(list(trained.values()), jobs=self._jobs)
        missing = [run for run in missing if not self._diverged(run)]
        for run in missing:
            self._clear_if_stale(run)
        run_stages([self._sampling(run) for run in missing], jobs=self._jobs)
        for run in missing:
            note = self._images(run) / _DIVERGED_NAME
            self._sampled(run).finish(**(read_json(note) if note.is_file() else {}))
        return [self._diverged(run) or self._evaluate(run, split) for run in runs]

    def _diverged(self, run: ArmRun) -> dict[str, str] | None:
        """What stands for the evaluation of a training, or of images, that were not finite, as they would be again."""
        trained = self._training(run) / _DIVERGED_NAME
        if run.arm.generator in _TRAIN and trained.is_file():
            return read_json(trained)
        said = (self._sampled(run).read() or {}).get(DIVERGED)
        return None if said is None else {DIVERGED: said}

    def _sampled(self, run: ArmRun) -> DoneRecord:
        return DoneRecord(self._images(run) / "drawn.json", self._images_key(run))

    def _clear_if_stale(self, run: ArmRun) -> None:
        """Remove images of other keys, and augmented ones, since a complete set of these looks like an incomplete one."""
        record = self._sampled(run)
        if not record.begun() or run.arm.generator == "augment_real":
            shutil.rmtree(self._images(run), ignore_errors=True)
            record.begin()

    def _sampling(self, run: ArmRun) -> Stage:
        folder, only = self._images(run), ["--no-metrics"] if run.arm.generator == "diffusion" else []
        command = self._command(_SAMPLE[run.arm.generator], run, "--output", str(folder / "samples"), *only)
        return _stage(f"drawing {run}", folder, command)

    def _evaluate(self, run: ArmRun, split: str) -> dict[str, Any]:
        folder = self._images(run) / f"evaluation_{split}"
        result = folder / "evaluation.json"
        record = DoneRecord(folder / "done.json", self._key(run, split), outputs=(result,))
        if record.read() is None:
            command = self._command("tools.evaluate", run, *as_options([
                f"evaluation_params.real_split={split}", "evaluation_params.allow_download=false"]),  # the study has fetched
                "--synthetic", str(self._images(run) / "samples"), "--output", str(folder))
            run_stages([Stage(f"evaluating {run} on {split}", command, folder / _LOG_NAME)])
            record.finish()
        return read_json(result)

    def _images_key(self, run: ArmRun) -> str:
        """Hash of all that the run's images depend on."""
        config = self.config_of(run.arm, self._own(run))
        guide = config.sample_params.guide_checkpoint
        weights = [] if guide is None else [hash_file(Path(guide))]
        return hash_json([self._training(run).name, config_to_identity(config.sample_params), *weights])

    def _key(self, run: ArmRun, split: str) -> str:
        """Hash of all that an evaluation of the run depends on."""
        config = self.config_of(run.arm, [f"evaluation_params.real_split={split}"])
        return hash_json([METHOD, self._images_key(run), config_to_identity(config.evaluation_params),
                          hash_evaluation_weights(config)])

    def _hash_inputs(self, config: Config) -> str:
        """Hash of the images, labels, VAE and weights to start from that a training reads, computed once."""
        start = config.train_params.start_from
        sections = [config_to_identity(section) for section in (config.dataset_params, config.autoencoder_params)]
        named = hash_json([*sections, *([] if start is None else [start])])
        if named not in self._inputs:
            project = Project.open(config)
            self._inputs[named] = hash_json({
                **({} if start is None else {"start": hash_file(find_weights(start))}),
                "vae": project.vae_sha256,
                "images": [[digest, record.label, record.split, record.group, list(record.conditions)] for record, digest
                           in zip(project.every_image.records, project.hash_images(project.every_image), strict=True)],
            })
        return self._inputs[named]

    def _images(self, run: ArmRun) -> Path:
        return Path(self._study.output) / "arms" / run.arm.name / f"steps{run.steps}_seed{run.seed}"

    def _training(self, run: ArmRun) -> Path:
        """The folder of the training, which arms that differ only in how they draw have in common."""
        config = self.config_of(run.arm, [f"train_params.seed={run.seed}"])
        kept = {name: value for name, value in config_to_identity(config).items()
                if effect_of(name) == "result" or (name == "gan_params" and run.arm.generator == "gan")}
        name = hash_json([_name_method(run.arm.generator), kept, self._hash_inputs(config)])[:12]
        return Path(self._study.output) / "trainings" / f"{name}_steps{run.steps}"

    def _own(self, run: ArmRun) -> list[str]:
        """The keys of this run."""
        drawing = [f"sample_params.seed={run.seed}"]
        return drawing if run.arm.generator not in _TRAIN else [*drawing, *_keys_of_training(run, self._training(run))]

    def _overrides(self, arm: Arm, own: Sequence[str]) -> list[str]:
        given: Mapping[str, Any] = {**(self._study.overrides or {}), **arm.overrides}
        return [*(f"{key}={json.dumps(value)}" for key, value in given.items()), *own]

    def _command(self, script: str, run: ArmRun, *further: str, own: Sequence[str] | None = None) -> list[str]:
        overrides = self._overrides(run.arm, self._own(run) if own is None else own)
        return our_command(script, "--config", self._study.base, *as_options(overrides), *further)


def _stage(title: str, folder: Path, command: Sequence[str]) -> Stage:
    """A training or a sampling, whose divergence is a result."""
    return Stage(title, command, folder / _LOG_NAME, divergence=folder / _DIVERGED_NAME)


def _name_method(generator: str) -> str:
    """The generator with the number of its method, so that no study mixes two kinds of images."""
    return f"{generator} {_METHODS[generator]}"


def hash_cost(generator: str, config: Config) -> str:
    """Of what a step's time depends on: arms that share it get equally many steps, whatever the clock said of each."""
    sections = config_to_identity(config)
    data, train, gan = (sections[name] for name in ("dataset_params", "train_params", "gan_params"))
    shape = [data["params"][key] for key in ("im_channels", "image_size")]
    if generator == "gan":
        sizes = {key: gan[key] for key in ("batch_size", "width", "augment")}
        return hash_json([_SPEED_METHOD, generator, shape, sizes])[:12]
    live = [] if data["load_latents"] else [sections["autoencoder_params"]]  # then each step encodes its images
    return hash_json([_SPEED_METHOD, generator, shape, sections["unet_params"], {key: data[key] for key in _DATA_COST},
                      {key: train[key] for key in _TRAIN_COST}, *live])[:12]


def _keys_of_training(run: ArmRun, folder: Path) -> list[str]:
    common = [f"train_params.seed={run.seed}", f"train_params.epochs={_MANY_EPOCHS}", "train_params.resume_training=true"]
    if run.arm.generator == "gan":
        return [*common, f"gan_params.output={folder}", f"gan_params.max_steps={run.steps}"]
    return [*common, f"train_params.task_name={folder}", f"train_params.max_steps={run.steps}",
            "train_params.num_samples=1"]  # of previews: by 1000 steps they take as long as the training
