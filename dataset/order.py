"""Addressed randomness: the images, views and noise of each step, as pure functions of (seed, purpose, address).

There is no random stream and so no state to save: step n draws the same whether or not step n - 1 ran in this
process. A step is drawn for the whole global batch; processes and micro-steps take slices of it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit, ndtri

from dataset.splits import apportion


def generator(seed: int, purpose: str, *address: int) -> np.random.Generator:
    """The random generator of this seed, purpose and address, independent of all others."""
    text = "/".join([str(seed), purpose, *map(str, address)])
    entropy = np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype="<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy.tolist())))


def normal(rng: np.random.Generator, shape: Sequence[int]) -> torch.Tensor:
    """Unit normal float32 values on the CPU, whatever the device that uses them."""
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


@dataclass(frozen=True)
class StepDraws:
    """The random draws for one global batch of B images, or for a slice of it."""

    positions: torch.Tensor  # (B,) int64, which training image
    views: torch.Tensor  # (B,) int64, which of the allowed symmetries
    posterior_noise: torch.Tensor  # (B, C, h, w) float32, places the latent within the VAE's posterior
    noise: torch.Tensor  # (B, C, h, w) float32, the diffusion noise
    timesteps: torch.Tensor  # (B,) int64 in [0, T)
    drop_uniforms: torch.Tensor  # (B,) float32 in [0, 1), decides whether the label and all conditions are dropped
    condition_uniforms: torch.Tensor  # (B, K) float32 in [0, 1), decides whether a condition alone is dropped

    def slice(self, start: int, stop: int) -> "StepDraws":
        """The draws of images start to stop - 1 of the batch."""
        return StepDraws(*(getattr(self, name)[start:stop] for name in self.__dataclass_fields__))


class SampleOrder:
    """The order of the training images: an endless sequence in epochs of N, a pure function of the seed.

    Within an epoch each class c has a quota of slots, proportional to n_c ** (1 - balance): with balance 0 every image
    comes exactly once per epoch, with balance 1 all classes are equally frequent. A class fills its slots from endless
    permutations of its own images, so that within a class all images come equally often.
    """

    def __init__(self, labels: Sequence[int], *, seed: int, balance: float = 0.0) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self.seed = seed
        self._members = {int(c): np.flatnonzero(self.labels == c) for c in np.unique(self.labels)}
        weights = {c: len(m) ** (1.0 - balance) for c, m in self._members.items()}
        scale = len(self.labels) / sum(weights.values())
        self._quotas = apportion({c: weight * scale for c, weight in weights.items()}, len(self.labels))
        self._epochs: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def positions(self, start: int, count: int) -> np.ndarray:
        """Image positions at start to start + count - 1 of the endless sequence, int64 (count,)."""
        places = np.arange(start, start + count)
        epochs, offsets = np.divmod(places, len(self))
        return np.array([self._epoch(int(e))[o] for e, o in zip(epochs, offsets, strict=True)], dtype=np.int64)

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            if len(self._epochs) >= 4:  # a batch rarely spans more epochs than this; older ones are drawn again
                self._epochs.clear()
            slots = np.concatenate([self._class_slots(c, epoch) for c in self._members])
            self._epochs[epoch] = generator(self.seed, "epoch", epoch).permutation(slots)
        return self._epochs[epoch]

    def _class_slots(self, label: int, epoch: int) -> np.ndarray:
        """The images that fill this class's quota in this epoch: a window on its endless permutations."""
        members, quota = self._members[label], self._quotas[label]
        first, last = divmod(epoch * quota, len(members)), (epoch + 1) * quota
        cycles = range(first[0], -(-last // len(members)))
        stream = [generator(self.seed, "class order", label, cycle).permutation(members) for cycle in cycles]
        return np.concatenate([*stream, members[:0]])[first[1]:first[1] + quota]


@dataclass(frozen=True)
class TimestepDraws:
    """How a batch's timesteps are drawn: `stratified`, `uniform` (independent) or `logit_normal`.

    Stratified draws are uniform, one in each of B equal strata of [0, T) in random order, so that a batch covers the whole
    time axis (Kingma 2021, appendix I.1, with independent offsets). logit_normal carries these over to t/T with a normal
    logit of mean `logit_mean` and standard deviation `logit_std` (Esser 2024, section 3.1).
    """

    num_timesteps: int
    sampling: str = "stratified"
    logit_mean: float = 0.0
    logit_std: float = 1.0

    def draw(self, seed: int, step: int, batch_size: int) -> torch.Tensor:
        """int64 (B,) timesteps in [0, T) of this step."""
        uniforms = generator(seed, "timestep", step).random(batch_size)
        if self.sampling == "uniform":
            fractions = uniforms
        else:
            fractions = (generator(seed, "strata", step).permutation(batch_size) + uniforms) / batch_size
        if self.sampling == "logit_normal":
            fractions = expit(self.logit_mean + self.logit_std * ndtri(fractions))
        timesteps = np.minimum((fractions * self.num_timesteps).astype(np.int64), self.num_timesteps - 1)
        return torch.from_numpy(timesteps)


def draw_step(
    order: SampleOrder, step: int, *, batch_size: int, num_views: int, latent_shape: tuple[int, int, int],
    timesteps: TimestepDraws, num_conditions: int = 0,
) -> StepDraws:
    """The random draws of optimizer step `step` (from 0) for its global batch."""
    def rng(purpose: str) -> np.random.Generator:
        return generator(order.seed, purpose, step)

    shape = (batch_size, *latent_shape)
    return StepDraws(
        positions=torch.from_numpy(order.positions(step * batch_size, batch_size)),
        views=torch.from_numpy(rng("view").integers(num_views, size=batch_size)),
        posterior_noise=normal(rng("posterior"), shape),
        noise=normal(rng("noise"), shape),
        timesteps=timesteps.draw(order.seed, step, batch_size),
        drop_uniforms=torch.from_numpy(rng("label drop").random(batch_size, dtype=np.float32)),
        condition_uniforms=torch.from_numpy(rng("condition drop").random((batch_size, num_conditions), dtype=np.float32)),
    )
