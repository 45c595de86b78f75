"""Training: a run stays the same run however often it is interrupted. test_processes has several at once."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from workspace import CLASS_NAMES, NUM_STEPS, Workspace, forget_accelerator, read_rows

import train_ddpm_cond
from config.errors import UserError
from config.load import config_to_dict
from dataset.decoding import decode_image, read_png_text
from dataset.order import SampleOrder, TimestepDraws, draw_step
from models.autoencoder import LatentStatistics
from tools.diffusion.latent_source import EncodedLatents
from tools.diffusion.networks import make_unet
from tools.diffusion.project import Project
from tools.diffusion.training import latent_shape
from tools.runtime import checkpoints
from tools.runtime.command import run_command
from tools.runtime.run_directory import owned

REPOSITORY = Path(__file__).parents[2]
LONG = ("train_params.max_steps=60", "train_params.gradient_accumulation_steps=2")


def start_training(workspace: Workspace, *overrides: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "train_ddpm_cond.py", *workspace.arguments(*overrides)]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def last_step(run: Path) -> int:
    """The newest step in the log, 0 where there is none."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return 0
    return json.loads(lines[-1])["step"] if lines else 0


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 90
    while last_step(run) < step:
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.002)


def train_until_signal(workspace: Workspace, run: Path, step: int, number: int, *overrides: str) -> int:
    """Train in this process, send it a signal once `step` is logged, and return the exit code."""
    def send() -> None:
        wait_for_step(run, step)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    with pytest.raises(SystemExit) as ending:
        run_command(lambda: train_ddpm_cond.main(workspace.arguments(*overrides)))
    sender.join()
    assert isinstance(ending.value.code, int)
    return ending.value.code


def assert_equal_runs(run: Path, other: Path) -> None:
    """Both logs and both best weights are equal byte for byte, but for the config's name of the folder."""
    assert (run / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    for name in ("ddpm_ckpt.safetensors", f"resume-{last_step(run):08d}.safetensors"):
        tensors, values = checkpoints.read_checkpoint(run / "checkpoints" / name)
        others, other_values = checkpoints.read_checkpoint(other / "checkpoints" / name)
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[key], others[key]) for key in tensors)
        for stored in (values, other_values):
            stored.pop("config", None)
        assert values == other_values


def test_a_run_signalled_killed_and_resumed_equals_an_uninterrupted_one(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = workspace.root / "elsewhere" / "parts"  # the same name, so that files can be compared as bytes
    run = tmp_path / "parts"
    overrides = (*LONG, f"train_params.task_name={run}")
    train_ddpm_cond.main(workspace.arguments(*LONG, f"train_params.task_name={whole}"))

    process = start_training(workspace, *overrides)
    wait_for_step(run, 2)
    process.send_signal(signal.SIGTERM)
    _, complaints = process.communicate(timeout=90)
    assert process.returncode == 143
    assert "run the same command to resume" in complaints
    assert "Traceback" not in complaints
    stopped = checkpoints.list_resume_checkpoints(run / "checkpoints")
    assert stopped and last_step(run) < 50

    process = start_training(workspace, *overrides)
    wait_for_step(run, last_step(run) + random.randint(1, 12))
    process.kill()
    process.communicate(timeout=90)
    assert process.returncode == -signal.SIGKILL

    forget_accelerator()
    capsys.readouterr()
    assert train_until_signal(workspace, run, last_step(run) + 2, signal.SIGINT, *overrides) == 130
    assert "resuming at step" in capsys.readouterr().out
    train_ddpm_cond.main(workspace.arguments(*overrides))
    assert_equal_runs(run, whole)
    steps = [row["step"] for row in read_rows(run) if "loss" in row]
    assert steps == list(range(2, 61, 2))


def test_best_weights_are_equal_byte_for_byte(workspace: Workspace, reference: Path) -> None:
    before = {name: (reference / name).read_bytes() for name in ("metrics.jsonl", "checkpoints/ddpm_ckpt.safetensors")}
    for path in (reference / "checkpoints").glob("resume-*12.safetensors"):
        path.unlink()  # as if killed after step 8 and before the last checkpoint
    train_ddpm_cond.main(workspace.arguments())
    for name, data in before.items():
        assert (reference / name).read_bytes() == data


def test_settings_of_accelerate_in_the_environment_change_no_weight(
    workspace: Workspace, reference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"GRADIENT_ACCUMULATION_STEPS": "4", "MIXED_PRECISION": "bf16", "DYNAMO_BACKEND": "EAGER"}
    for name, value in settings.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    train_ddpm_cond.main(workspace.arguments(workspace.task("launched")))
    told = capsys.readouterr().err
    assert all(name in told for name in settings)
    file = "checkpoints/ddpm_ckpt.safetensors"
    tensors, _ = checkpoints.read_checkpoint(workspace.run("launched") / file)
    others, _ = checkpoints.read_checkpoint(reference / file)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[key], others[key]) for key in tensors)


def test_dropout_masks_are_those_of_the_step_after_a_resume_too(workspace: Workspace) -> None:
    arguments = workspace.arguments(workspace.task("dropout"), "unet_params.dropout=0.3", "train_params.max_steps=6",
                                    "train_params.checkpoint_interval_steps=3", "train_params.keep_last_checkpoints=2")
    train_ddpm_cond.main(arguments)
    run = workspace.run("dropout")
    weights = next(path for path in (run / "checkpoints").iterdir() if "resume" not in path.name)
    before, log = weights.read_bytes(), (run / "metrics.jsonl").read_bytes()
    (run / "checkpoints/resume-00000006.safetensors").unlink()
    weights.unlink()
    train_ddpm_cond.main(arguments)
    assert weights.read_bytes() == before
    assert (run / "metrics.jsonl").read_bytes() == log


def test_a_finished_run_is_left_alone(
    workspace: Workspace, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*.safetensors")}
    train_ddpm_cond.main(workspace.arguments())
    assert f"all {NUM_STEPS} steps are done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in reference.rglob("*.safetensors")} == before


def test_the_run_directory_holds_what_it_should(workspace: Workspace, reference: Path) -> None:
    rows = read_rows(reference)
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8, 10, 12]
    assert [row["step"] for row in rows if "ema_validation_loss" in row] == [6, 12]
    assert [row["epoch"] for row in rows if "loss" in row] == [0, 0, 0, 1, 1, 1]
    assert "patients" in (reference / "PATIENT_DATA.txt").read_text(encoding="utf-8")
    names = sorted(path.name for path in (reference / "checkpoints").iterdir())
    assert names == ["ddpm_ckpt.safetensors", "resume-00000008.safetensors", "resume-00000012.safetensors"]
    preview = reference / "previews" / "step_00000012.png"
    assert "Synthetic" in read_png_text(preview)
    assert decode_image(preview).shape == (34 + 2 * 128 + 7, decode_image(preview).shape[1])  # title, a row a class
    _, values = checkpoints.read_checkpoint(reference / "checkpoints" / "ddpm_ckpt.safetensors")
    labels = [record.label for record in Project.open(workspace.config()).images("train").records]
    assert values["class_counts"] == [Counter(labels)[0], Counter(labels)[1]]
    assert values["config"] == json.loads(json.dumps(config_to_dict(workspace.config())))
    best = min((row for row in rows if "ema_validation_loss" in row), key=lambda row: row["ema_validation_loss"])
    assert (values["step"], values["ema_validation_loss"]) == (best["step"], best["ema_validation_loss"])


def test_weights_learn_and_label_dropout_trains_the_null_label(workspace: Workspace, reference: Path) -> None:
    initial = make_unet(workspace.config()).class_embedding.weight
    newest = checkpoints.read_newest_checkpoint(reference / "checkpoints")
    assert newest is not None
    trained = newest[0]["model.class_embedding.weight"]
    assert (trained != initial).any(dim=1).all()
    null = trained[len(CLASS_NAMES)]
    assert all((null - trained[label]).norm() > 0.01 for label in range(len(CLASS_NAMES)))


def test_without_label_dropout_the_null_label_is_never_trained(workspace: Workspace) -> None:
    overrides = (workspace.task("no_dropout"), "train_params.label_dropout=0", "train_params.max_steps=3")
    train_ddpm_cond.main(workspace.arguments(*overrides))
    newest = checkpoints.read_newest_checkpoint(workspace.run("no_dropout") / "checkpoints")
    assert newest is not None
    moved = newest[0]["model.class_embedding.weight"] != make_unet(workspace.config(*overrides)).class_embedding.weight
    assert moved.any(dim=1).tolist() == [True, True, False]


def test_encoding_on_the_fly_gives_the_latents_of_the_cache(workspace: Workspace, reference: Path) -> None:
    config = workspace.config()
    cache, codec = Project.open(config).prepare_latents("train"), Project.open(config).open_codec()
    encoded = EncodedLatents(Project.open(config), "train", codec)
    assert np.array_equal(encoded.labels, cache.labels)
    draws = draw_step(SampleOrder(cache.labels, seed=5), 3, batch_size=24, num_views=2,
                      latent_shape=latent_shape(config.dataset_params), timesteps=TimestepDraws(1000))
    assert draws.views.unique().tolist() == [0, 1]
    arguments = (draws.positions, draws.views, draws.posterior_noise)
    torch.testing.assert_close(encoded.draw(*arguments), cache.draw(*arguments), rtol=2e-3, atol=2e-3)  # float16's rounding
    identity_only = LatentStatistics.measure(encoded.moments(), gray=encoded.all_gray())
    both_views = LatentStatistics.measure(cache.moments(), gray=cache.gray)
    assert identity_only.gray and both_views.gray
    assert identity_only.std == pytest.approx(both_views.std, rel=0.05)

    train_ddpm_cond.main(workspace.arguments(workspace.task("encoded"), "dataset_params.load_latents=false"))
    rows = zip(read_rows(workspace.run("encoded")), read_rows(reference), strict=True)
    assert all(row["loss"] == pytest.approx(other["loss"], rel=0.05) for row, other in rows if "loss" in row)


def test_a_changed_config_is_refused_and_a_harmless_change_is_not(workspace: Workspace, reference: Path) -> None:
    with pytest.raises(UserError, match=r"train_params\.ldm_lr was 0\.003, is 0\.001; .*task_name to start again"):
        train_ddpm_cond.main(workspace.arguments("train_params.ldm_lr=0.001"))
    with pytest.raises(UserError, match=r"unet_params\.channels was \[16, 32\], is \[16, 16\]"):
        train_ddpm_cond.main(workspace.arguments("unet_params.channels=[16,16]"))
    train_ddpm_cond.main(workspace.arguments("sample_params.num_steps=7", "train_params.num_samples=4",
                                             "logging_params.interval_steps=3"))
    assert reference.is_dir()


def test_other_labels_behind_the_same_path_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    table = workspace.phantoms / "annotations.csv"
    copy = tmp_path / "annotations.csv"
    copy.write_bytes(table.read_bytes())
    overrides = (workspace.task("relabelled"), f"dataset_params.params.csv_file={copy}", "train_params.max_steps=1")
    train_ddpm_cond.main(workspace.arguments(*overrides))
    header, first, *rest = copy.read_text(encoding="utf-8").splitlines()
    cells = first.split(",")
    cells[1] = str(1 - int(cells[1]))
    copy.write_text("\n".join([header, ",".join(cells), *rest]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="other images, labels, VAE or pretrained UNet"):
        train_ddpm_cond.main(workspace.arguments(*overrides))


def test_resume_training_false_never_touches_a_run(workspace: Workspace, reference: Path) -> None:
    with pytest.raises(UserError, match=r"holds a run and train_params\.resume_training is false"):
        train_ddpm_cond.main(workspace.arguments("train_params.resume_training=false"))
    train_ddpm_cond.main(workspace.arguments(workspace.task("fresh"), "train_params.resume_training=false",
                                             "train_params.max_steps=1"))
    assert last_step(workspace.run("fresh")) == 1
    assert last_step(reference) == NUM_STEPS


def test_a_second_owner_is_refused(workspace: Workspace, reference: Path) -> None:
    with owned(reference, "the first"), pytest.raises(UserError, match=r"is in use by the first \(process \d"):
        train_ddpm_cond.main(workspace.arguments())


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    workspace: Workspace, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = checkpoints.resume_path(reference / "checkpoints", NUM_STEPS)
    whole = newest.read_bytes()
    damaged = bytearray(whole)
    damaged[-100] ^= 1
    newest.write_bytes(damaged)
    before = (reference / "metrics.jsonl").read_bytes()
    train_ddpm_cond.main(workspace.arguments())
    told = capsys.readouterr()
    assert told.err.startswith(f"warning: {newest}: does not match its checksum")
    assert "resuming at step 8" in told.out
    assert newest.read_bytes() == whole
    assert (reference / "metrics.jsonl").read_bytes() == before


def test_fp16_needs_a_gpu_and_bf16_reaches_the_convolutions(workspace: Workspace) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"mixed_precision: fp16 needs a GPU.*choose bf16 or no"):
            train_ddpm_cond.main(workspace.arguments(workspace.task("half"), "train_params.mixed_precision=fp16"))
    seen: Counter[torch.dtype] = Counter()

    def note(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Conv2d) and module.training:
            seen[output.dtype] += 1

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        train_ddpm_cond.main(workspace.arguments(workspace.task("bf16"), "train_params.mixed_precision=bf16",
                                                 "train_params.max_steps=2"))
    finally:
        handle.remove()
    assert set(seen) == {torch.bfloat16}
    newest = checkpoints.read_newest_checkpoint(workspace.run("bf16") / "checkpoints")
    assert newest is not None
    assert newest[0]["model.conv_in.weight"].dtype == torch.float32


def test_a_batch_that_cannot_be_split_is_refused(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="gradient_accumulation_steps"):
        train_ddpm_cond.main(workspace.arguments("train_params.gradient_accumulation_steps=5"))


def test_without_validation_images_the_last_weights_must_be_asked_for(workspace: Workspace, tmp_path: Path) -> None:
    table = (workspace.phantoms / "annotations.csv").read_text(encoding="utf-8").replace(",val,", ",train,")
    (tmp_path / "table.csv").write_text(table, encoding="utf-8")
    overrides = (f"dataset_params.params.csv_file={tmp_path / 'table.csv'}", f"train_params.task_name={tmp_path / 'run'}",
                 "train_params.max_steps=2")
    with pytest.raises(UserError, match="selection_metric: ema_validation_loss needs a val split"):
        train_ddpm_cond.main(workspace.arguments(*overrides))
    train_ddpm_cond.main(workspace.arguments(*overrides, "train_params.selection_metric=last"))
    assert read_rows(tmp_path / "run")[-1] == {"step": 2, "best_step": 2}


def test_validation_says_what_came_of_it(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = workspace.arguments(workspace.task("told"), "logging_params.progress_bar=true", "train_params.max_steps=6",
                                    "train_params.ldm_validate_epochs=1")
    train_ddpm_cond.main(arguments)
    row = next(row for row in read_rows(workspace.run("told")) if "ema_validation_loss" in row)
    preview = workspace.run("told") / "previews" / "step_00000006.png"
    line = f"step 6: validation loss {row['ema_validation_loss']:.4f}, the best so far; preview {preview}"
    assert line in capsys.readouterr().err.splitlines()
    assert preview.is_file()


def test_a_dry_run_tells_what_it_will_take_and_writes_nothing(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(workspace.root.rglob("*"))
    arguments = workspace.arguments(workspace.task("dry"), "dataset_params.directory_latents=nowhere")
    train_ddpm_cond.main([*arguments, "--dry-run"])
    told = capsys.readouterr().out
    for line in ("parameters of the UNet", "train: arrested 95, blastocyst 43; val: arrested 20, blastocyst 10",
                 "12 (6 per epoch of 138 images)", "memory for training", "disk  ", "time for training"):
        assert line in told
    config, answer = told.split("WHAT THIS RUN WILL TAKE")
    assert config.startswith("dataset_params:") and "memory for training" not in config
    assert answer.rstrip().splitlines()[-2:] == ["BEFORE TRAINING", "nothing is missing"]
    assert sorted(workspace.root.rglob("*")) == before
    assert not Path("nowhere").exists()
