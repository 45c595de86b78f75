"""Errors of devices and compilers as one line with the keys to change. Imports no slow library."""

import sys
from collections.abc import Iterator
from pathlib import Path

_TRAINING = ("lower train_params.ldm_batch_size, or raise train_params.gradient_accumulation_steps or set "
             "train_params.mixed_precision: bf16 for the same batch in less memory; while images are encoded, lower "
             "autoencoder_params.batch_size")
_SAMPLING = ("lower sample_params.batch_size; while images are decoded or encoded, autoencoder_params.batch_size and "
             "evaluation_params.batch_size")
_READING = "lower evaluation_params.batch_size and autoencoder_params.batch_size"
_MEMORY_KEYS = {  # by command
    "train_ddpm_cond": _TRAINING, "sample_ddpm_class_cond": _SAMPLING, "morphometry": _SAMPLING, "sweep": _SAMPLING,
    "train_vae": "lower autoencoder_params.training.batch_size, or the widths autoencoder_params.training.channels",
    "train_gan": "lower gan_params.batch_size or gan_params.width", "sample_gan": "lower sample_params.batch_size",
    "cache_latents": "lower autoencoder_params.batch_size", "check_vae": _READING, "evaluate": _READING,
    "membership_audit": "lower train_params.ldm_batch_size and autoencoder_params.batch_size",
}
_GPU_MEMORY = ("OutOfMemoryError", "out of memory")
_HOST_MEMORY = ("MemoryError", "DefaultCPUAllocator: not enough memory", "DefaultCPUAllocator: can't allocate memory")
_NO_KERNEL = ("no kernel image is available", "GPUTooOldForTriton")
_NO_COMPILER = ("InvalidCxxCompiler", "TritonMissing", "CppCompileError", "Failed to find C compiler",
                "Python.h: No such file")
_OLD_DRIVER = ("driver on your system is too old", "CUDA driver version is insufficient")
_PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited",
              "Timed out waiting")
_LIBRARY_ERRORS = ("RuntimeError", "MemoryError")  # and what is derived from them


def explain_fault(error: BaseException) -> str | None:
    """One line with the next step; None if the error does not come from a device, and so is a bug."""
    words = [f"{type(link).__name__}: {link}" for link in _chain(error)
             if any(kind.__name__ in _LIBRARY_ERRORS for kind in type(link).__mro__)]

    def says(signs: tuple[str, ...]) -> str | None:
        return next((" ".join(text.split())[:240] for text in reversed(words) if any(sign in text for sign in signs)),
                    None)

    if found := says(_NO_COMPILER):
        return (f"train_params.compile_mode needs a working C++ compiler, and on a GPU triton ({found}); install one, such "
                "as g++ with the headers of Python, set CXX to it, or set train_params.compile_mode: off")
    if found := says(_NO_KERNEL):
        return (f"this torch has no kernels for this GPU ({found}); install a build of torch for it, or compute on the CPU "
                "with CUDA_VISIBLE_DEVICES= (empty)")
    if found := says(_OLD_DRIVER):
        return f"the GPU's driver is too old for this torch ({found}); {OLD_DRIVER_STEP}"
    if found := says(_GPU_MEMORY):  # first: its class is named after the host's
        return f"the GPU has too little memory ({found}); {_memory_keys()}, or end other programs on that GPU"
    if found := says(_HOST_MEMORY):
        return f"this machine has too little memory ({found}); {_memory_keys()}, or end other programs"
    if found := says(_PEER_GONE):
        return (f"another process of this run has ended ({found}); its message, or the launcher's, says why; the same "
                "command resumes from the last checkpoint")
    return None


OLD_DRIVER_STEP = ("update the driver, or install a build of torch for an older CUDA, or compute on the CPU with "
                   "CUDA_VISIBLE_DEVICES= (empty)")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes; compilers wrap errors several times."""
    while error is not None:
        yield error
        error = error.__cause__ or getattr(error, "inner_exception", None) or error.__context__


def _memory_keys() -> str:
    path = Path(sys.argv[0])
    command = path.parent.name if path.name == "__main__.py" else path.stem
    return _MEMORY_KEYS.get(command, "lower the batch sizes: evaluation_params.batch_size, "
                            "autoencoder_params.batch_size, train_params.ldm_batch_size or sample_params.batch_size")
