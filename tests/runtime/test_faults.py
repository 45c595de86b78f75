"""What a device or compiler cannot do is one line with the keys to change: the libraries' own errors, as they raise them."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tools.runtime.command import run_command
from tools.runtime.faults import explain_fault


def one_line(error: BaseException, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str) -> str:
    """The line on stderr of a command that ends by this error."""
    def main() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", [f"/somewhere/{command}.py"])
    with pytest.raises(SystemExit) as ending:
        run_command(main)
    said = capsys.readouterr().err
    assert ending.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize(("command", "keys"), [
    ("train_ddpm_cond", ("train_params.ldm_batch_size", "gradient_accumulation_steps", "mixed_precision: bf16")),
    ("sample_ddpm_class_cond", ("sample_params.batch_size",)), ("train_gan", ("gan_params.batch_size",)),
    ("train_vae/__main__", ("autoencoder_params.training.batch_size",)),
    ("membership_audit/__main__", ("lower train_params.ldm_batch_size and autoencoder_params.batch_size",)),
    ("cache_latents", ("autoencoder_params.batch_size",)), ("another", ("evaluation_params.batch_size",)),
])
def test_memory_names_the_keys_of_the_command(
    command: str, keys: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB")
    told = one_line(on_gpu, capsys, monkeypatch, command)
    assert "the GPU has too little memory" in told and "Tried to allocate 20.00 GiB" in told
    assert all(key in told for key in keys)


def test_the_memory_of_the_machine_is_told_from_the_gpus(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 58, dtype=torch.float64)  # the allocator's own words
    for error in (refused.value, MemoryError("Unable to allocate 12 GiB")):
        told = one_line(error, capsys, monkeypatch, "train_ddpm_cond")
        assert "this machine has too little memory" in told and "train_params.ldm_batch_size" in told


def test_apples_and_amds_words_for_it() -> None:
    for text in ("MPS backend out of memory (MPS allocated: 17 GB)", "HIP out of memory. Tried to allocate 2.00 GiB"):
        assert "the GPU has too little memory" in str(explain_fault(RuntimeError(text)))


def test_no_compiler_names_the_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("/nonexistent",))
    monkeypatch.setattr(inductor, "fx_graph_cache", False)
    network = nn.Linear(3, 3)
    network.compile()
    with pytest.raises(Exception, match="C\\+\\+ compiler") as refused:
        network(torch.ones(1, 3)).sum().backward()
    told = one_line(refused.value, capsys, monkeypatch, "train_ddpm_cond")
    assert "train_params.compile_mode needs a working C++ compiler" in told and "compile_mode: off" in told


def test_triton_and_kernels_and_drivers() -> None:
    from torch._inductor.exc import TritonMissing

    def told(error: BaseException) -> str:
        return str(explain_fault(error))

    assert "compile_mode: off" in told(TritonMissing(None))
    assert "compile_mode: off" in told(RuntimeError("Failed to find C compiler. Please specify via CC environment variable"))
    accelerator_error: Callable[[str], BaseException] = getattr(torch, "AcceleratorError", RuntimeError)
    no_kernel = accelerator_error("CUDA error: no kernel image is available for execution on the device")
    assert "no kernels for this GPU" in told(no_kernel)
    assert "update the driver" in told(RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."))


def test_a_process_that_is_gone_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gone = torch.distributed.DistBackendError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:8094")
    assert "another process of this run has ended" in one_line(gone, capsys, monkeypatch, "train_ddpm_cond")


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError("CUDA out of memory"),
                                   IndexError("out of memory"), KeyError(1)])
def test_a_bug_is_none_of_these(error: Exception) -> None:
    assert explain_fault(error) is None
