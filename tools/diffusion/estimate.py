"""Estimates for a run before it starts: parameters, images, memory, disk and time. Also what is still missing."""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from config.errors import UserError
from config.schema import DatasetParams, SampleParams, TrainParams, UNetParams
from dataset.annotations import ImageRecord, describe_splits
from models.layers import SelfAttention
from models.unet import count_parameters
from scheduler.guidance import scale_at
from scheduler.samplers import evaluated_timesteps
from tools.diffusion.conditions import condition_shapes
from tools.diffusion.networks import make_network
from tools.diffusion.project import Project
from tools.diffusion.training import latent_shape, require_selectable

_FLOAT_BYTES = 4
_WEIGHT_COPIES = 6  # weights, gradient, two Adam moments, average, the network that validation loads it into
BACKWARD_FACTOR = 3  # a forward and a backward pass cost about three forward passes
_ATTAINED_SHARE = 0.5  # of the matrix-product rate that a training step of this network reaches on a CPU or GPU
_RATE_SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices multiplied to measure the rate; large, to hide launch time
_RATE_BURST = 8  # products that a GPU is given at once
_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # by train_params.mixed_precision


def count_steps(train: TrainParams, num_images: int) -> tuple[int, int]:
    """(optimizer steps per epoch, steps in all); a last, partial batch of an epoch is filled from the next one."""
    per_epoch = -(-num_images // train.ldm_batch_size)
    total = per_epoch * train.epochs
    return per_epoch, min(total, train.max_steps or total)


def estimate_memory(data: DatasetParams, unet: UNetParams, train: TrainParams) -> tuple[int, int]:
    """(parameters that are trained, bytes that it takes: weights, gradient, optimizer, average, activations).

    Weights that stay as they are, under LoRA, are held once. With gradient checkpointing one block's activations are held
    besides the inputs of all blocks.
    """
    with torch.device("meta"), _fused_attention():
        network = make_network(data, unet, with_weights=False)
        micro_size = train.ldm_batch_size // train.gradient_accumulation_steps
        inputs = _make_inputs(data, micro_size)
        for module in network.modules():
            if isinstance(module, SelfAttention):
                module.attend = _FusedAttention.apply
        saved = _SavedBytes()
        with saved.hooks():
            network(*inputs)
        largest_block = _measure_largest_block(data, unet, inputs) if unet.gradient_checkpointing else 0
    parameters, every = count_parameters(network), sum(weight.numel() for weight in network.parameters())
    activation_bytes = (saved.total + largest_block) // (2 if train.mixed_precision != "no" else 1)
    weight_bytes = _FLOAT_BYTES * (parameters * _WEIGHT_COPIES + every - parameters)
    return parameters, weight_bytes + activation_bytes


def describe_run(
    data: DatasetParams, unet: UNetParams, train: TrainParams, records: Sequence[ImageRecord], device: torch.device
) -> str:
    """Sizes and times, one per line."""
    parameters, memory = estimate_memory(data, unet, train)
    micro_size = train.ldm_batch_size // train.gradient_accumulation_steps
    num_train = sum(record.split == "train" for record in records)
    num_val = sum(record.split == "val" for record in records)
    per_epoch, total = count_steps(train, num_train)
    step_flops = count_step_flops(data, unet, micro_size) * train.gradient_accumulation_steps
    rate = measure_training_rate(train.mixed_precision, device)
    seconds = expected_seconds(step_flops * total, rate)
    checkpoint = parameters * _FLOAT_BYTES * 4
    latents = 2 * 2 * torch.Size(latent_shape(data)).numel() * (
        num_train * len(data.symmetries) + num_val)
    disk = checkpoint * train.keep_last_checkpoints + parameters * _FLOAT_BYTES
    disk += latents if data.load_latents else 0
    lines = [
        f"parameters of the UNet   {parameters:,}",
        "images                   " + _describe_counts(data.params.class_names, records),
        f"optimizer steps          {total:,} ({per_epoch:,} per epoch of {num_train:,} images)",
        f"memory for training      about {_gigabytes(memory)} (weights, optimizer, average, activations)",
        f"disk                     about {_gigabytes(disk)} (checkpoints and latent cache)",
        f"time for training        about {format_duration(seconds)} on this {device.type} "
        f"({rate / 1e9:,.0f} GFLOP/s measured, {step_flops / 1e9:,.0f} GFLOP a step), without encoding and validation",
    ]
    return "\n".join(lines)


def list_preparations(
    project: Project, records: Sequence[ImageRecord], *, selection_metric: str, config_words: Sequence[str]
) -> list[str]:
    """What is missing or unknown for the training, one per line; `config_words` name the config on a command line."""
    lines = []
    vae, training = project.autoencoder.pretrained, project.autoencoder.training
    if not Path(vae).is_dir():
        if Path(vae) == Path(training.output):
            start = ["--set", "autoencoder_params.pretrained=START"] if training.fine_tune else []
            remedy = f"run {shlex.join(['python', '-m', 'tools.train_vae', *config_words, *start])}"
            remedy += ", where START is the VAE to fine-tune, a folder or a hub id" if training.fine_tune else ""
        else:
            remedy = ("if it is a hub id, it will be downloaded, which needs the network; else correct "
                      "autoencoder_params.pretrained, or train one with tools.train_vae and name its output there, "
                      f"{training.output}")
        lines.append(f"VAE: {vae} is not a local folder; {remedy}")
    else:
        try:
            _ = project.vae_folder
        except UserError as error:
            lines.append(f"VAE: {error}")
    try:
        require_selectable(selection_metric, records)
    except UserError as error:
        lines.append(str(error))
    if project.table.group_column is None and len({record.group for record in records}) == len(records):
        lines.append("groups: patients are unknown (group_column: null), so every image counts as a separate patient; "
                     "images of one patient can be on both sides of a split, and every number is then too good. Name the "
                     "column of patients, if there is one")
    return lines


def expected_seconds(flops: float, rate: float) -> float:
    """Seconds for this many operations of the UNet if matrix products run at `rate` FLOP/s."""
    return flops / (rate * _ATTAINED_SHARE)


def count_sampling_flops(
    data: DatasetParams, unet: UNetParams, sample: SampleParams, num_images: int, *, num_timesteps: int
) -> float:
    """Floating-point operations of the UNet to generate this many images; the last batch is padded."""
    passes = count_evaluations(sample, num_timesteps) * -(-num_images // sample.batch_size)
    return count_step_flops(data, unet, sample.batch_size) / BACKWARD_FACTOR * passes


def count_evaluations(params: SampleParams, num_timesteps: int) -> int:
    """Forward passes of the network per image: two where guidance acts, one elsewhere."""
    interval = (params.guidance_interval[0], params.guidance_interval[1])
    return sum(1 if scale_at(timestep, num_timesteps=num_timesteps, guidance_scale=params.guidance_scale,
                             interval=interval) == 1 else 2
               for timestep in evaluated_timesteps(params.sampler, num_timesteps, params.num_steps))


def count_step_flops(data: DatasetParams, unet: UNetParams, batch_size: int) -> int:
    """Floating-point operations of matrix products and convolutions in a training step of the UNet."""
    def run() -> None:
        make_network(data, replace(unet, gradient_checkpointing=False), with_weights=False)(*_make_inputs(data, batch_size))

    return count_training_flops(run)


def count_training_flops(forward: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions in a forward pass and its backward pass.

    `forward` builds its tensors itself; it runs on the meta device, where nothing is computed.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops() * BACKWARD_FACTOR


def measure_training_rate(mixed_precision: str, device: torch.device) -> float:
    """FLOP/s of matrix products in the precision of a training (`train_params.mixed_precision`) on the device."""
    on_gpu = device.type == "cuda"
    return measure_matmul_rate(device, dtype=_DTYPES[mixed_precision] if on_gpu else torch.float32)


def measure_matmul_rate(
    device: torch.device, *, seconds: float = 0.3, dtype: torch.dtype = torch.float32, side: int | None = None
) -> float:
    """FLOP/s of products of square matrices on the device, measured for about `seconds`."""
    side = side or _RATE_SIDE.get(device.type, 4096)
    a = torch.randn(side, side, device=device, dtype=dtype)
    burst = _RATE_BURST if device.type == "cuda" else 1

    def multiply() -> None:
        for _ in range(burst):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    multiply()
    started, products, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < seconds:
        multiply()
        products += burst
        elapsed = time.perf_counter() - started
    return products * 2 * side**3 / elapsed


def _make_inputs(data: DatasetParams, batch_size: int) -> tuple[torch.Tensor, ...]:
    """Noisy latents, timesteps, labels and conditions of a batch, on the device of the context."""
    labels = torch.empty(batch_size, dtype=torch.int64)
    conditions = torch.empty(batch_size, len(condition_shapes(data)), dtype=torch.int64)
    return torch.empty(batch_size, *latent_shape(data)), labels, labels, conditions


def _measure_largest_block(data: DatasetParams, unet: UNetParams, inputs: tuple[torch.Tensor, ...]) -> int:
    """Bytes that the backward pass of the pretrained UNet's largest block holds, where nothing is computed again."""
    network, saved, largest, before = (
        make_network(data, replace(unet, gradient_checkpointing=False), with_weights=False), _SavedBytes(), [0], [0])
    inner = network.unet
    for block in (*inner.down_blocks, inner.mid_block, *inner.up_blocks):
        block.register_forward_pre_hook(lambda *_: before.append(saved.total))
        block.register_forward_hook(lambda *_: largest.append(saved.total - before[-1]))
    with saved.hooks():
        network(*inputs)
    return max(largest)


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention of diffusers' networks that keeps what fused attention keeps, too."""
    library = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = lambda q, k, v, **_: _FusedAttention.apply(q, k, v)
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = library


class _FusedAttention(torch.autograd.Function):
    """Keeps what fused attention keeps; on the meta device torch's attention would form the (N, N) maps."""

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        attended = q.new_empty(*q.shape[:-1], v.shape[-1])
        context.save_for_backward(q, k, v, attended)
        return attended


class _SavedBytes:
    """Sums the storage that autograd keeps for the backward pass, each tensor's storage once."""

    def __init__(self) -> None:
        self.total = 0
        self._kept: dict[int, torch.UntypedStorage] = {}

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if not isinstance(tensor, torch.nn.Parameter) and storage._cdata not in self._kept:
                self._kept[storage._cdata] = storage  # held, so that its address is not used again
                self.total += storage.nbytes()
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def _describe_counts(class_names: Sequence[str], records: Sequence[ImageRecord]) -> str:
    return "; ".join(f"{split}: " + ", ".join(f"{name} {counts['images']:,}" for name, counts in classes.items())
                     for split, classes in describe_splits(records, class_names).items())


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def format_duration(seconds: float) -> str:
    """Seconds, minutes or hours, as suits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
