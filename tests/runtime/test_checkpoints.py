"""Checkpoints: exact round trips, damage of any kind found, the newest intact one chosen, optimizers that go on."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from config.errors import UserError
from tools.runtime import checkpoints
from tools.runtime.checkpoints import (
    read_checkpoint,
    read_newest_checkpoint,
    resume_path,
    write_checkpoint,
)

VALUES: dict[str, Any] = {"step": 7, "best_loss": None, "names": ["a", "ü"], "nested": {"rate": 1e-7, "on": True}}


def tensors() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    wide = torch.randn(4, 6, generator=rng)
    return {
        "model.weight": wide.T, "model.half": wide.bfloat16(), "model.fp16": wide.half() * 1000, "count": torch.tensor(5),
        "optimizer.0.step": torch.tensor(3.0), "mask": wide > 0, "double": wide.double() / 3, "empty": torch.zeros(0, 3),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]), "long": torch.tensor([2**62, -1]),
        "image": torch.randn(2, 3, 4, 4, generator=rng).contiguous(memory_format=torch.channels_last),
    }


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.contiguous().flatten().view(torch.uint8).equal(other.contiguous().flatten().view(torch.uint8))


def test_round_trip_keeps_every_bit_dtype_and_value(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "c.safetensors"
    write_checkpoint(path, tensors(), VALUES)
    read, values = read_checkpoint(path)
    assert read.keys() == tensors().keys() and all(same(read[name], value) for name, value in tensors().items())
    assert "patients' images" in values.pop("note")
    assert values == {"format": checkpoints.FORMAT, **VALUES}
    assert [p.name for p in path.parent.iterdir()] == ["c.safetensors"]


def test_values_come_back_as_json_has_them(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", {}, {"pair": (1, 2), "by_class": {2: "x", 10: "y"}})
    values = read_checkpoint(tmp_path / "c")[1]
    assert {key: values[key] for key in ("pair", "by_class")} == {"pair": [1, 2], "by_class": {"2": "x", "10": "y"}}


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", tensors(), VALUES)
    write_checkpoint(tmp_path / "b", dict(reversed(tensors().items())), dict(reversed(VALUES.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write_checkpoint(tmp_path / "c", tensors(), {**VALUES, "step": 8})
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_any_flipped_bit_is_found_or_means_the_same(tmp_path: Path) -> None:
    """Every bit of the header and a sample of the others; only a letter's case in a number, 1e-07, may be read alike."""
    path = tmp_path / "c"
    write_checkpoint(path, {"weight": torch.arange(40.0)}, VALUES)
    data = path.read_bytes()
    wanted = read_checkpoint(path)[1]
    body = 8 + int.from_bytes(data[:8], "little")
    places = [*range(8 * 8), *random.Random(0).sample(range(8 * 8, 8 * body), 700), *range(8 * body, 8 * len(data), 7)]
    alike = 0
    for place in places:
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            read, values = read_checkpoint(path)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "restore it from a copy" in str(error)
            continue
        alike += 1
        assert values == wanted and torch.equal(read["weight"], torch.arange(40.0))
    assert alike <= 1


def test_a_file_cut_short_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write_checkpoint(path, tensors(), VALUES)
    data = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 4, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="not a complete checkpoint of this software"):
            read_checkpoint(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(UserError, match="not a complete checkpoint"):
        read_checkpoint(path)


def test_missing_foreign_and_other_formats_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    with pytest.raises(UserError, match=r"checkpoint cannot be read \(No such file or directory\)"):
        read_checkpoint(tmp_path / "absent")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(UserError, match="not a complete checkpoint of this software"):
        read_checkpoint(tmp_path / "foreign")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle")
    with pytest.raises(UserError, match="not a complete checkpoint of this software"):
        read_checkpoint(tmp_path / "pickle")
    monkeypatch.setattr(checkpoints, "FORMAT", 99)
    write_checkpoint(tmp_path / "newer", {}, {})
    monkeypatch.undo()
    with pytest.raises(UserError, match="checkpoint format 99, expected 1"):
        read_checkpoint(tmp_path / "newer")


def write_steps(folder: Path, *steps: int) -> None:
    for step in steps:
        write_checkpoint(resume_path(folder, step), {"w": torch.full((8,), float(step))}, {"step": step})


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 16
    path.write_bytes(data)


def test_the_newest_intact_checkpoint_is_chosen_with_a_warning_for_each_passed_over(tmp_path: Path) -> None:
    write_steps(tmp_path, 5, 100, 20, 1000)
    for name in ("resume-latest.safetensors", ".resume-00009999.safetensors.x.tmp", "resume-99999999.txt"):
        (tmp_path / name).write_bytes(b"not one of ours")
    newest = read_newest_checkpoint(tmp_path)
    assert newest is not None and newest[1]["step"] == 1000 and newest[2] == []
    damage(resume_path(tmp_path, 1000))
    resume_path(tmp_path, 100).write_bytes(b"")
    found = read_newest_checkpoint(tmp_path)
    assert found is not None
    read, values, warnings = found
    assert values["step"] == 20 and bool((read["w"] == 20).all())
    assert len(warnings) == 2 and "resume-00001000" in warnings[0] and "resume-00000100" in warnings[1]


def test_no_checkpoint_is_none_and_no_intact_one_is_refused(tmp_path: Path) -> None:
    assert read_newest_checkpoint(tmp_path) is None
    assert read_newest_checkpoint(tmp_path / "absent") is None
    write_steps(tmp_path, 1, 2)
    for step in (1, 2):
        damage(resume_path(tmp_path, step))
    with pytest.raises(UserError, match=r"no intact resume checkpoint is left \(.*resume-00000002.*to start again"):
        read_newest_checkpoint(tmp_path)


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    write_steps(tmp_path, 9, 10, 200, 1)
    checkpoints.prune_resume_checkpoints(tmp_path, keep=2)
    assert [path.name for path in checkpoints.list_resume_checkpoints(tmp_path)] == [
        "resume-00000200.safetensors", "resume-00000010.safetensors"]


def make_training(*, fused: bool = False) -> tuple[nn.Module, torch.optim.Optimizer]:
    """On images in channels-last memory order, as the UNet trains."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(5, 7, 3, padding=1), nn.SiLU(), nn.Conv2d(7, 2, 3)).to(memory_format=torch.channels_last)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1, fused=fused)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(6, 5, 4, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def test_fused_steps_in_any_memory_order_are_plain_ones() -> None:
    (plain, plain_optimizer), (fused, fused_optimizer) = make_training(), make_training(fused=True)
    train(plain, plain_optimizer, range(5))
    train(fused, fused_optimizer, range(5))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_put_back_goes_on_exactly(tmp_path: Path, fused: bool) -> None:
    whole, whole_optimizer = make_training(fused=fused)
    train(whole, whole_optimizer, range(10))

    model, optimizer = make_training(fused=fused)
    train(model, optimizer, range(4))
    packed = checkpoints.prefix_tensors(model.state_dict(), "model")
    packed |= checkpoints.prefix_tensors(checkpoints.pack_optimizer(optimizer), "optimizer")
    write_checkpoint(tmp_path / "c", packed, {})
    read, _ = read_checkpoint(tmp_path / "c")
    model, optimizer = make_training(fused=fused)
    model.load_state_dict(checkpoints.select_tensors(read, "model"))
    checkpoints.unpack_optimizer(optimizer, checkpoints.select_tensors(read, "optimizer"))
    train(model, optimizer, range(4, 10))

    assert all(torch.equal(model.state_dict()[name], value) for name, value in whole.state_dict().items())
    ours, theirs = (checkpoints.pack_optimizer(o) for o in (optimizer, whole_optimizer))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_unpacking_leaves_the_hyperparameters_of_the_config() -> None:
    model, optimizer = make_training()
    train(model, optimizer, range(2))
    packed = checkpoints.pack_optimizer(optimizer)
    other = torch.optim.AdamW(make_training()[0].parameters(), lr=3e-5, weight_decay=0.0)
    checkpoints.unpack_optimizer(other, packed)
    assert other.param_groups[0]["lr"] == 3e-5 and other.param_groups[0]["weight_decay"] == 0.0
    assert all(float(state["step"]) == 2 for state in other.state.values())


def test_prefixes_are_put_on_and_taken_off() -> None:
    given = {"a.b": torch.zeros(1), "model": torch.ones(1)}
    prefixed = checkpoints.prefix_tensors(given, "model")
    assert list(prefixed) == ["model.a.b", "model.model"]
    assert checkpoints.select_tensors({**prefixed, "model_b.c": torch.zeros(2)}, "model") == given
