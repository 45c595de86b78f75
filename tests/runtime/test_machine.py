"""The device is chosen, checked and said once, on machines that have none of them: what torch tells is simulated."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from config.errors import UserError
from tools.runtime import machine
from tools.runtime.command import announce, project_version, run_command

ROOT = Path(__file__).parents[2]
WHEEL = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")  # of torch 2.14 for CUDA 13
OPENERS = ("choose_device(", "open_ranks(", "open_accelerator(")


@pytest.mark.parametrize(("capability", "runs"), [
    ((6, 1), False), ((7, 0), False), ((7, 5), True), ((8, 0), True), ((8, 9), True), ((9, 0), True), ((12, 0), True),
    ((13, 0), False), ((11, 0), False),
])
def test_which_gpus_a_build_of_torch_has_kernels_for(capability: tuple[int, int], runs: bool) -> None:
    assert machine.has_kernels(capability, WHEEL) is runs


def test_intermediate_code_runs_on_later_gpus_and_special_code_on_its_own_alone() -> None:
    assert machine.has_kernels((13, 0), [*WHEEL, "compute_120"]) and not machine.has_kernels((6, 0), ["compute_75"])
    assert machine.has_kernels((9, 0), ["sm_90a"]) and not machine.has_kernels((9, 1), ["sm_90a"])


class Machine:
    """A machine with one GPU, as torch would tell of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
        for name in ("CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU", "LOCAL_RANK", "RANK"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        for name, value in (("is_available", True), ("device_count", 1), ("get_device_capability", capability),
                            ("get_device_name", "Tesla P100"), ("get_arch_list", list(WHEEL))):
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)


def test_a_gpu_without_kernels_is_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, (6, 0))
    with pytest.raises(UserError, match=r"Tesla P100 has compute capability 6\.0, and torch .* is built for sm_75, .*"
                                        r"CUDA_VISIBLE_DEVICES= \(empty\)"):
        machine.choose_device()
    for name, value in (("CUDA_VISIBLE_DEVICES", ""), ("ACCELERATE_USE_CPU", "true")):  # the ways out that it names
        with monkeypatch.context() as given:
            given.setenv(name, value)
            assert machine.choose_device() == torch.device("cpu")


def test_a_gpu_with_kernels_is_taken_and_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Machine(monkeypatch, (8, 0))
    with pytest.raises(SystemExit):
        run_command(lambda: [machine.choose_device(precision="float32") for _ in range(2)])
    assert re.fullmatch(rf"BlastDiffusion {project_version()}, torch \S+, GPU Tesla P100, precision float32, 1 process\n",
                        capsys.readouterr().err)


def test_an_old_driver_is_no_silent_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).",
                      stacklevel=2)
        return False

    Machine(monkeypatch, (8, 0))
    monkeypatch.setattr(torch.cuda, "is_available", refuse)
    with pytest.raises(UserError, match=r"driver is too old .*found version 11040.*update the driver"):
        machine.choose_device()


def test_nothing_is_said_by_other_ranks_nor_outside_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    announce("CPU")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        run_command(lambda: announce("CPU"))
    assert capsys.readouterr().err == ""


def test_every_command_says_where_it_computes_or_opens_no_device() -> None:
    """One that says its versions alone passes on_device=False; any other opens a device by one of our functions."""
    sources = {path: path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.py"), *(ROOT / "tools").rglob("*.py"))}
    commands = {path: text for path, text in sources.items() if "\n    run_command(" in text}
    assert len(commands) > 20
    opened_by = {path.stem for path, text in sources.items() if any(opener in text for opener in OPENERS)}
    for path, text in commands.items():
        opens = any(opener in text for opener in OPENERS) or any(
            re.search(rf"from tools\.[\w.]+\.{name} import", text) for name in opened_by)
        assert opens or "on_device=False" in text, path
    choosing = [path.name for path, text in sources.items() if "torch.cuda.is_available() else" in text]
    assert sorted(choosing) == ["gpu_step.py", "setup.py"]  # of benchmarks, and of init, which asks for the memory


def test_help_is_help_alone() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.make_phantoms", "--help"], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("usage:")
