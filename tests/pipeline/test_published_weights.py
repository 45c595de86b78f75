"""Evaluations fetch the published weights that they lack, or say in one row each why not, and go on."""

import hashlib
import io
import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from file_server import FileServer, serve
from workspace import Workspace

import sample_ddpm_class_cond
from config.errors import UserError
from config.load import load_config
from config.schema import Config
from dataset.ranks import ALONE, Ranks
from dataset.storage import write_json
from tools import evaluate
from tools.check_vae import __main__ as check_vae
from tools.evaluation.encoders import downloads, inception, published_weights
from tools.evaluation.encoders.config_weights import hash_evaluation_weights
from tools.evaluation.encoders.inception import FidInception
from tools.evaluation.encoders.published_weights import fetch_published, list_downloads
from tools.evaluation.encoders.trunks import NETS
from tools.runtime.stages import Stage
from tools.study import __main__ as study_command
from tools.study import runs as study_runs
from tools.study.plan import Arm, Study
from tools.study.runs import ArmRun, StudyRuns

AUTO = ("evaluation_params.inception_path=null", "evaluation_params.allow_download=auto")


def to_bytes(module: torch.nn.Module) -> bytes:
    """Random weights in the file format that is published."""
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    torch.manual_seed(0)
    return {"inception": to_bytes(FidInception()), "squeeze": to_bytes(NETS["squeeze"].build())}


@pytest.fixture(scope="module")
def servers(contents: dict[str, bytes]) -> Iterator[dict[str, FileServer]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(serve(content)) for name, content in contents.items()}


Publish = Callable[..., dict[str, FileServer]]


@pytest.fixture
def publish(
    servers: dict[str, FileServer], contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Publish:
    """Put the loopback servers in place of the public addresses, and an empty cache in place of torch's."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(inception, "STATE_DICT_SHA256", hashes["inception"])
    monkeypatch.setattr(inception, "_INPUT_PX", 75)  # the least it takes: a sixteenth of the work
    monkeypatch.setattr(published_weights, "PROMPT", downloads.Limits(answer_s=1.0, block_s=1.0))

    def put(**manners: str) -> dict[str, FileServer]:
        sources = dict(downloads.SOURCES)
        for name, server in servers.items():
            server.asked.clear()
            manner = manners.get(name, "whole")
            address = manner if "://" in manner else server.address(manner, downloads.SOURCES[name].file_name)
            sources[name] = downloads.Source(address, hashes[name], downloads.SOURCES[name].megabytes)
        for module in (downloads, inception, published_weights):
            monkeypatch.setattr(module, "SOURCES", sources)
        return servers

    return put


def cache(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "torch").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def samples(classifiers: Workspace, reference: Path) -> Path:
    """36 images of the reference run, evaluated as a config from before `allow_download: auto` has it."""
    output = classifiers.root / "published_samples"
    sample_ddpm_class_cond.main([*classifiers.arguments(), "--output", str(output)])
    assert reference.is_dir()
    return output


def run(workspace: Workspace, samples: Path, output: Path, *overrides: str) -> dict[str, Any]:
    evaluate.main([*workspace.arguments(*AUTO, *overrides), "--synthetic", str(samples), "--output", str(output)])
    return json.loads((output / "evaluation.json").read_text(encoding="utf-8"))


def fetch(config: Config, ranks: Ranks = ALONE) -> dict[str, str]:
    return fetch_published(config.evaluation_params, config.dataset_params.lpips_path, progress_bar=False, ranks=ranks)


def list_fetched(config: Config) -> list[str]:
    return list_downloads(config.evaluation_params, config.dataset_params.lpips_path)


def rows_of(evaluation: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    return [row for row in evaluation["rows"] if row["metric"].split("[")[0].split("-")[0] in names]


def test_with_a_network_all_metrics_are_there_and_no_other_number_moves(
    classifiers: Workspace, samples: Path, tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = publish()
    evaluation = run(classifiers, samples, tmp_path / "out")
    total = {row["metric"]: row for row in evaluation["rows"] if row["comparison"] == "total" and row["class"] == "all"}
    assert np.isfinite(total["KID"]["value"])
    assert total["FID"]["note"].startswith("not computed: 32 images, a Fréchet distance needs 50")  # no matter of weights
    assert all(row["value"] is not None for row in rows_of(evaluation, "LPIPS", "PD"))
    assert {"cross", "real_pairs", "diversity"} <= {row["comparison"] for row in rows_of(evaluation, "PD")}
    told = capsys.readouterr().out
    assert "fetching pt_inception-2015-12-05-6726825d.pth (91 MB) from http://127.0.0.1" in told
    assert "allow_download: false skips this" in told and "sha256 verified" in told and "not fetched" not in told
    assert cache(tmp_path) == ["pt_inception-2015-12-05-6726825d.pth", "squeezenet1_1-b8a52dc0.pth"]
    before = json.loads((samples / "evaluation.json").read_text(encoding="utf-8"))
    kept = [row for row in before["rows"] if row["value"] is not None]
    assert [row for row in evaluation["rows"] if row in kept] == kept  # in their order, to the last digit
    assert evaluation["rows"][0]["metric"].startswith("FD[classifier@")
    assert set(before["warnings"]) <= set(evaluation["warnings"])
    assert fetch(classifiers.config(*AUTO)) == {}
    assert [len(server.asked) for server in servers.values()] == [1, 1]


@pytest.mark.parametrize(("manner", "reason"), [
    ("cut", "cut off: "), ("page", "expected sha256 "),
])
def test_a_file_that_comes_badly_is_a_row_and_the_other_is_fetched(
    classifiers: Workspace, samples: Path, tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str],
    manner: str, reason: str,
) -> None:
    publish(inception=manner)
    evaluation = run(classifiers, samples, tmp_path / "out")
    told = capsys.readouterr().out
    for row in rows_of(evaluation, "FID", "KID"):
        assert row["value"] is None and row["note"].startswith("not computed: ")
        assert f"It was not fetched: {reason}" in row["note"]
        assert "evaluation_params.inception_path" in row["note"] and "pt_inception-2015-12-05" in row["note"]
        assert str(tmp_path) not in row["note"]
    assert len(rows_of(evaluation, "FID", "KID")) == 2
    assert all(row["value"] is not None for row in rows_of(evaluation, "PD"))
    assert told.count("not fetched: pt_inception-2015-12-05-6726825d.pth: ") == 1
    assert cache(tmp_path) == ["squeezenet1_1-b8a52dc0.pth"]


def test_where_nothing_answers_the_command_ends_well_and_soon(
    classifiers: Workspace, samples: Path, tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    servers = publish(inception=f"http://127.0.0.1:{port}/pt_inception-2015-12-05-6726825d.pth")
    evaluation = run(classifiers, samples, tmp_path / "out")
    before = json.loads((samples / "evaluation.json").read_text(encoding="utf-8"))
    assert [row["value"] for row in evaluation["rows"]] == [row["value"] for row in before["rows"]]
    assert "Connection refused" in rows_of(evaluation, "FID")[0]["note"]
    [lpips] = rows_of(evaluation, "LPIPS")
    assert "not tried, since the address before it did not answer" in lpips["note"]
    assert "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth" in lpips["note"]  # where to get it
    assert servers["squeeze"].asked == [] and cache(tmp_path) == []
    assert capsys.readouterr().out.count("\nnot fetched: ") == 1
    # The whole attempt against servers that never answer is bounded by one limit, not one a file.
    publish(inception="silent", squeeze="silent")
    started = time.monotonic()
    failures = fetch(classifiers.config(*AUTO))
    assert set(failures) == {"inception", "squeeze"} and time.monotonic() - started < 2


def test_a_cache_that_cannot_be_written_and_a_switch_of_the_environment(
    classifiers: Workspace, tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = publish()
    (tmp_path / "torch").write_bytes(b"")  # a file where the folder should be
    assert "cannot be written" in fetch(classifiers.config(*AUTO))["inception"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(classifiers.config(*AUTO)) == dict.fromkeys(("inception", "squeeze"), "HF_HUB_OFFLINE=1 is set")
    assert all(server.asked == [] for server in servers.values())


def test_what_is_fetched_follows_the_config(classifiers: Workspace, tmp_path: Path, publish: Publish) -> None:
    def listed(*overrides: str) -> list[str]:
        return [line.split()[4].split("-")[0] for line in list_fetched(classifiers.config(*overrides))]

    servers = publish()
    assert listed() == [] and fetch(classifiers.config()) == {}  # a config from before
    assert listed(*AUTO) == ["pt_inception", "squeezenet1_1"]
    [line] = list_fetched(classifiers.config(*AUTO, "evaluation_params.encoders=[vae]"))
    assert line.startswith("download: the evaluation fetches squeezenet1_1-b8a52dc0.pth (5 MB) from http://127.0.0.1")
    assert listed(*AUTO, "evaluation_params.encoders=[classifier]") == ["squeezenet1_1"]
    own = f"evaluation_params.inception_path={tmp_path / 'own/inception.pth'}"
    assert listed(*AUTO, own) == ["squeezenet1_1"]
    assert listed(*AUTO, own, "evaluation_params.allow_download=true") == ["pt_inception", "squeezenet1_1"]
    fetch(classifiers.config(own, "evaluation_params.allow_download=true"))
    assert (tmp_path / "own/inception.pth").is_file()  # as it always did
    assert listed(*AUTO, f"dataset_params.lpips_path={tmp_path / 'absent'}") == ["pt_inception"]
    assert listed(*AUTO) == ["pt_inception"]
    assert sum(len(server.asked) for server in servers.values()) == 2


def test_weights_that_come_later_change_the_key_of_an_evaluation_with_auto_alone(
    classifiers: Workspace, publish: Publish
) -> None:
    publish()
    auto, old = classifiers.config(*AUTO), classifiers.config("evaluation_params.inception_path=null")
    before = hash_evaluation_weights(auto), hash_evaluation_weights(old)
    fetch(auto)
    assert hash_evaluation_weights(auto) != before[0] and hash_evaluation_weights(old) == before[1]


def test_of_processes_that_share_work_the_first_one_fetches(classifiers: Workspace, publish: Publish) -> None:
    servers = publish()
    config = classifiers.config(*AUTO)
    first, second = (Ranks(index, 2, agree=lambda value: value) for index in (0, 1))
    failed = Ranks(1, 2, agree=lambda _: False)  # the first one could not
    assert fetch(config, ranks=failed) == {} and servers["squeeze"].asked == []
    assert fetch(config, ranks=first) == {}
    assert fetch(config, ranks=second) == {}
    assert [len(server.asked) for server in servers.values()] == [1, 1]


def test_check_vae_fetches_what_lpips_needs(
    classifiers: Workspace, tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = publish()
    check_vae.main([*classifiers.arguments(*AUTO), "--output", str(tmp_path / "vae")])
    [vae] = json.loads((tmp_path / "vae/vae.json").read_text(encoding="utf-8"))["vaes"]
    assert vae["lpips"] is not None and servers["inception"].asked == []
    assert "LPIPS was not measured" not in capsys.readouterr().out


def test_a_study_fetches_at_its_start_and_its_evaluations_fetch_nothing(
    classifiers: Workspace, tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = publish(inception="silent")
    study = Study(
        base=str(classifiers.config_path), output=str(tmp_path / "study"), screen_minutes=1.0, final_minutes=1.0, seeds=(1,),
        families={"recipes": tuple(Arm(name, "diffusion", {}) for name in ("a", "b"))},
        overrides={"evaluation_params.inception_path": None, "evaluation_params.allow_download": "auto",
                   "evaluation_params.encoders": ["inception"]})
    runs, commands = StudyRuns(study), []
    with pytest.raises(UserError, match="the first, inception, takes part in the choice and cannot be opened"):
        study_command.run_study(study, runs, ())
    assert len(servers["inception"].asked) == 1  # the second arm would wait for the same address

    def note(stages: list[Stage]) -> None:
        for stage in stages:
            assert stage.log is not None
            commands.append(stage.command)
            write_json(stage.log.parent / "evaluation.json", {"rows": []})

    monkeypatch.setattr(study_runs, "run_stages", note)
    assert runs._evaluate(ArmRun(study.arms[0], 10, 1), "val") == {"rows": []}
    [command] = commands
    overrides = [word for before, word in itertools.pairwise(command) if before == "--set"]
    assert runs.config_of(study.arms[0]).evaluation_params.allow_download == "auto"
    assert load_config(study.base, overrides).evaluation_params.allow_download is False


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("true", True), ("false", False), ("yes", True)])
def test_values_of_the_key(workspace: Workspace, text: str, value: object) -> None:
    found = workspace.config(f"evaluation_params.allow_download={text}").evaluation_params.allow_download
    assert found == value and type(found) is type(value)
    with pytest.raises(UserError, match=r"expected true \| false \| auto, found 'sometimes'"):
        workspace.config("evaluation_params.allow_download=sometimes")


def test_the_demo_asks_for_all_and_its_own_encoder_stays_first() -> None:
    params = load_config(Path(__file__).parents[2] / "config/demo.yaml").evaluation_params
    assert params.allow_download == "auto" and params.encoders == ("classifier", "inception")
