"""Every variable that the installed accelerate reads has its answer, and none of them changes what a training computes."""

import ast
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import accelerate
import pytest
import torch
from torch import nn

from config.errors import UserError
from config.schema import Config
from tools.runtime.environment import FOLLOWING, OVERRULED, REFUSED, is_decided, settle
from tools.runtime.processes import open_accelerator, unwrap

_READERS = {"get", "getenv", "pop", "setdefault", "parse_flag_from_env", "parse_choice_from_env", "get_int_from_env"}
_PREFIXES = ("ACCELERATE", *(prefix.rstrip("_") for prefix in FOLLOWING))
# That library's tests, commands, launchers and its trackers, none of which run in a command of ours.
_NOT_OURS = ("commands", "test_utils", "launchers.py", "tracking.py", "utils/launch.py")


def read_names(tree: ast.AST) -> Iterator[str]:
    """Variables that a module reads, and every constant that is named like one of its settings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(rf"({'|'.join(_PREFIXES)})_[A-Z0-9_]+", node.value):
                yield node.value
        elif isinstance(node, ast.Call) and node.args:
            name = ast.unparse(node.func)
            if name.rpartition(".")[2] in _READERS and (name.startswith("os.") or "." not in name):
                words = node.args[0].elts if isinstance(node.args[0], ast.List) else [node.args[0]]
                yield from (word.value for word in words if isinstance(word, ast.Constant))


def variables_of_accelerate() -> set[str]:
    root = Path(accelerate.__file__).parent
    files = [path for path in root.rglob("*.py") if not path.relative_to(root).as_posix().startswith(_NOT_OURS)]
    return {name for path in files for name in read_names(ast.parse(path.read_text(encoding="utf-8")))}


def test_every_variable_that_accelerate_reads_is_decided() -> None:
    found = variables_of_accelerate()
    assert {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_USE_FSDP", "FSDP_OFFLOAD_PARAMS", "WORLD_SIZE"} <= found
    assert {name for name in found if not is_decided(name)} == set(), "decide on these in tools/runtime/environment.py"
    composed = tuple(name for name in found if name.endswith("_"))
    assert all(name in found or name.startswith(composed) for name in (*REFUSED, *OVERRULED)), "no longer read"


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_wrap_or_split_the_network_is_refused_by_name(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "AO" if "FP8" in name else "true")
    with pytest.raises(UserError, match=rf"^{name}=\w+ asks for .*; |^{name}=\w+ asks for .*Unset it"):
        open_accelerator(make_config().launch_params, train=make_config().train_params)
    monkeypatch.setenv(name, "NO" if "FP8" in name else "false")
    assert list(settle(os.environ, make_config().train_params)) == []


def test_who_decides_is_said() -> None:
    given = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
             "ACCELERATE_DYNAMO_BACKEND": "EAGER", "NVIDIA_TF32_OVERRIDE": "1", "ACCELERATE_NEWS": "1"}
    assert [line.partition(";")[0] for line in settle(given, None)] == [
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 is not used: this command trains nothing and computes in float32",
        "ACCELERATE_MIXED_PRECISION=bf16 is not used: this command trains nothing and computes in float32",
        "ACCELERATE_DYNAMO_BACKEND=EAGER is not used: this command trains nothing and computes in float32",
        "NVIDIA_TF32_OVERRIDE=1 is set: a GPU may round float32 products to TF32",
        "ACCELERATE_NEWS is set, but this release does not know it"]


def test_of_precision_the_config_decides_and_a_line_says_so(make_config: Callable[..., Config]) -> None:
    def lines(asked: str, held: str) -> list[str]:
        given = {"ACCELERATE_MIXED_PRECISION": asked, "ACCELERATE_DYNAMO_BACKEND": "NO",
                 "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}  # as `accelerate launch` always sets them
        return list(settle(given, make_config(train_params={"mixed_precision": held}).train_params))

    assert lines("no", "no") == lines("bf16", "bf16") == []
    for asked, held in (("bf16", "no"), ("no", "bf16"), ("fp8", "no")):
        assert lines(asked, held) == [f"ACCELERATE_MIXED_PRECISION={asked} is not used: train_params.mixed_precision in the "
                                      f"config decides; it is {held}"]


def test_the_environment_changes_neither_gradients_nor_wrapping(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    config = make_config()
    accelerator = open_accelerator(config.launch_params, train=config.train_params)
    assert capsys.readouterr().err.count("is not used: train_params.") == 3
    network = nn.Linear(3, 1)
    model, _ = accelerator.prepare(network, torch.optim.AdamW(network.parameters()))
    assert model is network
    inputs = torch.tensor([[1.0, 2.0, 3.0]])
    with accelerator.autocast():
        loss = model(inputs).sum()
    assert loss.dtype == torch.float32
    accelerator.backward(loss)
    assert torch.equal(network.weight.grad, inputs)  # not divided by 4


def test_names_of_the_state_are_those_of_the_bare_network(make_config: Callable[..., Config]) -> None:
    config, network = make_config(), nn.Sequential(nn.Linear(2, 2))
    accelerator = open_accelerator(config.launch_params, train=config.train_params)
    compiled = torch.compile(network, backend="eager")
    assert "_orig_mod.0.weight" in compiled.state_dict()
    assert unwrap(accelerator, compiled) is network and unwrap(accelerator, network) is network
