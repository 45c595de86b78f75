"""Settings in the environment: every one that `accelerate` reads is used, overruled or refused.

`accelerate launch` and its saved configuration pass their choices to a command as environment variables, which the config
does not see. Each variable is listed here; a test reads the installed library and fails on a variable that is not.
"""

from collections.abc import Iterator, Mapping

from config.errors import UserError
from config.schema import TrainParams

REFUSED = {  # switches that wrap the network or split it
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context and sequence parallelism",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker's own data parallelism", "ACCELERATE_FP8_BACKEND": "8-bit precision",
}
OVERRULED = {  # the config decides: (key, values that change nothing)
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("train_params.gradient_accumulation_steps", ("1",)),
    "ACCELERATE_MIXED_PRECISION": ("train_params.mixed_precision", ()),
    "ACCELERATE_DYNAMO_BACKEND": ("train_params.compile_mode", ("no",)),
}
TAKEN = (  # where it runs and how much it prints; the first line names the device
    "ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE", "ACCELERATE_ENABLE_RICH", "ACCELERATE_LOG_LEVEL",
    "ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU",
    "FORK_LAUNCHED", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "MPI_LOCALNRANKS", "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE",
    "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
    "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMP_NUM_THREADS", "PMI_RANK", "PMI_SIZE", "RANK", "WORLD_SIZE",
)
WITHOUT_EFFECT = (  # settings of data loaders, model hubs, TPUs and launchers, which no command here uses
    "ACCELERATE_ALLOW_CP_STANDALONE", "ACCELERATE_BYPASS_DEVICE_MAP", "ACCELERATE_CONFIG_DS_FIELDS",
    "ACCELERATE_DEBUG_RDV_FILE", "ACCELERATE_DOWNCAST_BF16", "ACCELERATE_GRADIENT_CLIPPING",
    "ACCELERATE_INIT_INCLUDE_BUFFERS", "PT_HPU_LAZY_MODE",
    "USE_TORCH_XLA",
)
FOLLOWING = {  # read only after their switch, which is refused or overruled
    "ACCELERATE_DEEPSPEED_": "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DYNAMO_": "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_FP8_": "ACCELERATE_FP8_BACKEND", "ACCELERATE_SAGEMAKER_": "ACCELERATE_USE_SAGEMAKER",
    "FSDP_": "ACCELERATE_USE_FSDP", "MEGATRON_LM_": "ACCELERATE_USE_MEGATRON_LM",
    "PARALLELISM_CONFIG_": "ACCELERATE_USE_PARALLELISM_CONFIG",
}
_ROUNDING = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")  # read by CUDA and torch
_OFF = ("", "0", "f", "false", "n", "no", "none", "off")


def is_decided(name: str) -> bool:
    """Whether the variable is listed above."""
    return name in {*REFUSED, *OVERRULED, *TAKEN, *WITHOUT_EFFECT} or name.startswith(tuple(FOLLOWING))


def settle(environment: Mapping[str, str], train: TrainParams | None) -> Iterator[str]:
    """Lines that name the environment settings that are not used, and those that change the rounding.

    train: the training section; None if a command computes in float32 and trains nothing.

    Raises:
        UserError: a setting that wraps or splits the network.
    """
    for name, what in REFUSED.items():
        if _asks(environment, name):
            raise UserError(f"{name}={environment[name]} asks for {what}, which no command here supports: a network fits on "
                            "one GPU, and several GPUs share the batch. Unset it, or start with `accelerate launch "
                            "--multi_gpu` without a saved configuration")
    for name, (key, idle) in OVERRULED.items():
        value = environment.get(name, "")
        held = "float32" if train is None else str(getattr(train, key.partition(".")[2]))
        if value == "" or value.lower() in (*idle, held) or (train is None and value.lower() in _OFF):
            continue
        yield (f"{name}={value} is not used: " + (f"{key} in the config decides; it is {held}" if train is not None
                                                  else "this command trains nothing and computes in float32"))
    for name in _ROUNDING:
        if _asks(environment, name):
            yield f"{name}={environment[name]} is set: a GPU may round float32 products to TF32"
    for name in environment:
        if name.startswith("ACCELERATE_") and not is_decided(name):
            yield f"{name} is set, but this release does not know it; unset it if results must not depend on it"


def _asks(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() not in _OFF
