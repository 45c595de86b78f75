"""The in-domain classifiers: they learn the phantoms, are not made twice, and the two roles are two networks."""

import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from workspace import Workspace

from config.errors import UserError
from models.classifier import CONFIG_FILE, WEIGHTS_FILE, Classifier
from tools.evaluation import assess as assessment
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.judges import was_chosen_on
from tools.runtime.command import run_command
from tools.runtime.run_directory import owned
from tools.train_encoder import __main__ as train_encoder


def read_record(folder: Path) -> dict:
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


def test_both_learn_what_tells_clear_phantoms_apart(classifiers: Workspace) -> None:
    for role in ("encoder", "judge"):
        record = read_record(classifiers.root / role)
        assert record["role"] == role
        assert record["training_images"] == 138
        assert record["scores"]["train"]["auc"] > 0.9
        assert record["scores"]["val"]["auc"] > 0.75
        assert sorted(record["files_sha256"]) == [CONFIG_FILE, WEIGHTS_FILE]
        assert "patients" in record["note"]


def test_the_judge_is_another_network_than_the_encoder(classifiers: Workspace) -> None:
    encoder, judge = (Classifier.from_folder(classifiers.root / role) for role in ("encoder", "judge"))
    assert read_record(classifiers.root / "encoder")["identity"] != read_record(classifiers.root / "judge")["identity"]
    for first, second in zip(encoder.stages.parameters(), judge.stages.parameters(), strict=True):
        if first.ndim == 4:
            alike = torch.nn.functional.cosine_similarity(first.detach().flatten(), second.detach().flatten(), dim=0)
            assert abs(float(alike)) < 0.5


def test_a_rerun_does_nothing_and_a_damaged_folder_is_made_again(
    classifiers: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*classifiers.arguments(f"evaluation_params.classifier_path={tmp_path}"), "--epochs", "1"]
    train_encoder.main(arguments)
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    before = (tmp_path / WEIGHTS_FILE).stat().st_mtime_ns
    train_encoder.main(arguments)
    assert "already holds the encoder of these images" in capsys.readouterr().out
    assert (tmp_path / WEIGHTS_FILE).stat().st_mtime_ns == before
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[:-1] + b"x")
    train_encoder.main(arguments)
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == weights


def train_until_signal(arguments: list[str], state: Path) -> int:
    """Train in this process, interrupt it once a further state is there, and return the exit code."""
    before = set(state.glob("resume-*"))

    def send() -> None:
        deadline = time.monotonic() + 90
        while not set(state.glob("resume-*")) - before and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    with pytest.raises(SystemExit) as ending:
        run_command(lambda: train_encoder.main(arguments))
    sender.join()
    assert isinstance(ending.value.code, int)
    return ending.value.code


def test_a_training_that_was_broken_off_ends_with_the_bytes_of_an_unbroken_one(
    classifiers: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_encoder, "_SECONDS_BETWEEN_STATES", 0.0)
    output = tmp_path / "encoder"
    arguments = [*classifiers.arguments(f"evaluation_params.classifier_path={output}"), "--epochs", "12"]
    state = output / "training_state"
    assert train_until_signal(arguments, state) == 130
    assert "run the same command to resume" in capsys.readouterr().err
    shutil.copytree(state, tmp_path / "older")
    assert train_until_signal(arguments, state) == 130
    assert "resuming at step" in capsys.readouterr().out
    shutil.rmtree(state)
    (tmp_path / "older").rename(state)  # as if it had been killed before it wrote a further state
    refusal = pytest.raises(UserError, match=r"is in use by another training .*classifier_path")
    with owned(output, "another training"), refusal:
        train_encoder.main(arguments)
    train_encoder.main(arguments)
    assert "resuming at step" in capsys.readouterr().out
    for name in (CONFIG_FILE, WEIGHTS_FILE, "training.json"):
        assert (output / name).read_bytes() == (classifiers.root / "encoder" / name).read_bytes()
    assert sorted(path.name for path in output.iterdir()) == sorted(
        path.name for path in (classifiers.root / "encoder").iterdir())


def test_the_state_of_another_training_is_discarded_and_one_line_says_so(
    classifiers: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_encoder, "_SECONDS_BETWEEN_STATES", 0.0)
    arguments = [*classifiers.arguments(f"evaluation_params.classifier_path={tmp_path}"), "--epochs"]
    state = tmp_path / "training_state"
    assert train_until_signal([*arguments, "12"], state) == 130
    capsys.readouterr()
    train_encoder.main([*arguments, "1"])
    said = capsys.readouterr()
    assert "resuming" not in said.out
    assert said.err.splitlines()[0] == (f"warning: {state} held the state of a training on other images or with other "
                                        "settings; it is discarded and training starts again")


def test_the_output_and_the_record_say_what_the_weights_were_chosen_on_and_what_ended_the_training(
    classifiers: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never the images that the config evaluates on."""
    judge = tmp_path / "judge"
    arguments = [*classifiers.arguments(f"evaluation_params.judge_path={judge}"), "--role", "judge", "--epochs", "1"]
    train_encoder.main(arguments)
    said, record = capsys.readouterr(), read_record(judge)
    assert re.search(r"judge: ended after 4 steps \(1 epochs\), because the largest number of epochs was reached; it has "
                     r"the weights of step 4, chosen on val \(\d+ images\)", said.out)
    assert (record["chosen_on"], record["ended_by"], record["steps"], record["chosen_step"]) == ("val", "steps", 4, 4)
    assert was_chosen_on(judge, "val") and not was_chosen_on(judge, "test") and not was_chosen_on(tmp_path / "none", "val")
    plain = record["scores"]["val"]["baseline_balanced_accuracy"]
    assert 0.4 < plain <= 1
    assert f"; a plain baseline on untrained features: balanced accuracy {plain:.3f}" in said.out
    assert ("has not learned what a plain baseline reads" in said.err) == (
        plain > record["scores"]["val"]["balanced_accuracy"])
    for split, warned in (("val", True), ("test", False)):
        report = EvaluationReport(provenance={})
        overrides = (f"evaluation_params.judge_path={judge}", f"evaluation_params.real_split={split}")
        config = classifiers.config(*overrides)
        assessment._load_judge(config.evaluation_params, config.dataset_params.params, report)
        assert any("weights were chosen on the val images" in text for text in report.warnings) == warned
    train_encoder.main([*arguments, "--set", "evaluation_params.real_split=val", "--max-minutes", "1e-9"])
    said, record = capsys.readouterr(), read_record(judge)
    assert "chosen on a sixth of the training groups (" in said.out and not was_chosen_on(judge, "val")
    assert (record["ended_by"], record["steps"], record["training_images"]) == ("minutes", 1, 138)
    assert "warning: --max-minutes 1e-09 ended the training before it settled: another machine gives other" in said.err


def test_what_cannot_be_trained_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluation_params\.judge_path: set the folder for the judge"):
        train_encoder.main([*workspace.arguments("evaluation_params.judge_path=null"), "--role", "judge"])
    with pytest.raises(UserError, match="--epochs: expected 1 or more, found 0"):
        train_encoder.main([*workspace.arguments(), "--epochs", "0"])
    with pytest.raises(UserError, match="--max-minutes: expected a number above 0, found 0"):
        train_encoder.main([*workspace.arguments(), "--max-minutes", "0"])
    with pytest.raises(UserError, match="image_size of at least 32 px, found 16"):
        train_encoder.main(workspace.arguments("dataset_params.params.image_size=16", "dataset_params.latent_size=4",
                                               f"evaluation_params.classifier_path={tmp_path / 'small'}"))
    assert not (tmp_path / "small").exists()
