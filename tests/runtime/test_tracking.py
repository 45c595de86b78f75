"""The log: rows survive kills in whole lines, and whatever wandb does, it is one warning."""

import json
import struct
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.errors import UserError
from config.load import config_to_dict
from config.schema import Config
from tools.runtime.tracking import Tracker, WandbMirror


def open_tracker(path: Path, config: Config, *, step: int) -> Tracker:
    mirror = WandbMirror(config.logging_params, config_to_dict(config), folder=path.parent, name="test")
    return Tracker(path, mirror, step=step)


def test_rows_are_lines_of_json_without_timings(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    tracker = open_tracker(tmp_path / "metrics.jsonl", make_config(), step=0)
    tracker.log({"step": 1, "loss": 0.1 + 0.2}, timings={"images_per_second": 3.0})
    tracker.log({"step": 2, "loss": None})
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")  # before it is closed
    tracker.close()
    assert [json.loads(line) for line in text.splitlines()] == [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": None}]


def test_a_resumed_log_drops_later_rows_and_half_lines(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 4, "val": 1}\n{"step": 6}\n{"step": 8, "lo', encoding="utf-8")
    tracker = open_tracker(path, make_config(), step=4)
    tracker.log({"step": 6, "loss": 1.0})
    tracker.close()
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        {"step": 2}, {"step": 4}, {"step": 4, "val": 1}, {"step": 6, "loss": 1.0}]


def test_a_broken_row_in_the_middle_is_named(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\nnot json\n{"step": 4}\n', encoding="utf-8")
    with pytest.raises(UserError, match="not a row of this log: 'not json'"):
        open_tracker(path, make_config(), step=4)


def read_log_records(data: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: seven bytes of header, then LevelDB's log format (blocks of 32 KiB, fragments joined)."""
    position, record = 7, b""
    while position < len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)  # after the checksum
        record += data[position + 7:position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last fragment
            yield record
            record = b""


@pytest.mark.parametrize("failing", ["init", "log", "finish", "image"])
def test_a_wandb_that_fails_is_one_warning(
    tmp_path: Path, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], failing: str,
) -> None:
    def act(name: str) -> Callable[..., Any]:
        def acting(*_: object, **__: object) -> Any:
            if name == failing:
                raise ConnectionError("the service\nis away")
            return run
        return acting

    run = types.SimpleNamespace(log=act("log"), finish=act("finish"))
    module = types.ModuleType("wandb")
    for name, member in (("Settings", dict), ("init", act("init")), ("Image", act("image"))):
        setattr(module, name, member)
    monkeypatch.setitem(sys.modules, "wandb", module)
    path = tmp_path / "metrics.jsonl"
    tracker = open_tracker(path, make_config(logging_params={"wandb_mode": "offline"}), step=0)
    for step in (1, 2, 3):
        tracker.log({"step": step})
        tracker.log_synthetic_image("preview", np.zeros((8, 8), np.uint8), step=step)
    tracker.close()
    assert path.read_text(encoding="utf-8") == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    warnings = capsys.readouterr().err
    assert warnings.count("\n") == 1
    assert warnings.startswith("warning: wandb is not logging (ConnectionError: the service is away); the run continues")


def test_an_offline_run_holds_the_log_and_no_other_image(
    tmp_path: Path, make_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb
    from wandb.proto import wandb_internal_pb2

    path = tmp_path / "metrics.jsonl"
    tracker = open_tracker(path, make_config(logging_params={"wandb_mode": "offline"}), step=0)
    tracker.log({"step": 2, "loss": 0.5, "lr": 1e-3}, timings={"images_per_second": 9.0})
    tracker.log({"step": 2, "ema_validation_loss": 0.25, "best_step": 2})
    tracker.log_synthetic_image("preview", np.full((8, 8), 100, np.uint8), step=2)
    tracker.log({"step": 4, "loss": 0.125, "lr": 1e-4}, timings={"images_per_second": 9.0})
    tracker.close()
    wandb.teardown()  # as at the end of a process: finish() may return before the service has written its file
    assert capsys.readouterr().err == ""

    (stored,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    history: dict[int, dict[str, Any]] = {}
    for data in read_log_records(stored.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            history.setdefault(items["_step"], {}).update(items)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        step = row.pop("step")
        assert {key: history[step][key] for key in row} == row
    assert history[2]["preview._type"] == "image-file"
    media = [file for file in (tmp_path / "wandb").rglob("*.png") if not file.is_symlink()]
    assert len({file.resolve() for file in media}) == 1


def test_a_run_that_is_resumed_is_one_wandb_run(
    tmp_path: Path, make_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb
    from wandb.proto import wandb_internal_pb2

    config = make_config(logging_params={"wandb_mode": "offline"})
    for step in (2, 4):  # the second one as after a stop
        tracker = open_tracker(tmp_path / "metrics.jsonl", config, step=step - 2)
        tracker.log({"step": step, "loss": 1 / step})
        tracker.close()
        wandb.teardown()
        time.sleep(1.1)  # wandb names its folders by the second
    assert capsys.readouterr().err == ""
    runs, steps = [], []
    for stored in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb")):
        for data in read_log_records(stored.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                runs.append(record.run.run_id)
            elif record.WhichOneof("record_type") == "history":
                steps += [json.loads(item.value_json) for item in record.history.item
                          if "_step" in (item.key, *item.nested_key)]
    assert len(runs) >= 2 and set(runs) == {(tmp_path / "wandb/run_id.txt").read_text(encoding="utf-8").strip()}
    assert steps == [2, 4]
