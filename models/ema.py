"""The exponential moving average of a network's weights; sampling and published models use it."""

import numpy as np
import torch
from torch import nn

from models.trained_part import trained_parameters


class ExponentialMovingAverage:
    """Average of the parameters that are trained, with a warm-up, so that early averages forget the initial weights.

    After update n the decay is min(decay, (1 + n) / (10 + n)). A decay of 0 is no average: the weights themselves.
    With a `relative_length` the average weighs update t of n in proportion to t ** gamma instead. The standard deviation of
    these weights is that fraction of n: the average lengthens with the training and forgets the initial weights at once.
    Source: the warm-up of TensorFlow's ExponentialMovingAverage(num_updates); Karras 2024 (EDM2), section 3.1.
    """

    def __init__(self, module: nn.Module, decay: float, relative_length: float | None = None) -> None:
        self.decay = decay
        self._gamma = None if relative_length is None else power_of_length(relative_length)
        self.average = {name: value.detach().clone() for name, value in trained_parameters(module).items()}
        # On the parameters' device, like all that an update depends on: the host does not know whether the update counts.
        device = next(module.parameters()).device
        self._updates = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)

    @property
    def num_updates(self) -> int:
        return int(self._updates)

    @torch.no_grad()
    def update(self, module: nn.Module, counts: torch.Tensor | None = None) -> None:
        """Move the average towards the module's current parameters; if `counts`, bool (), is false, nothing changes."""
        if counts is None:
            counts = torch.ones_like(self._updates, dtype=torch.bool)
        self._updates += counts
        if self._gamma is not None:
            weight = 1 - (1 - 1 / self._updates) ** (self._gamma + 1)
        else:
            weight = 1 - ((1 + self._updates) / (10 + self._updates)).clamp(max=self.decay)
        weight = torch.where(counts, weight, 0.0).float()
        parameters = dict(module.named_parameters())
        torch._foreach_lerp_(list(self.average.values()), [parameters[name].detach() for name in self.average],
                             [weight] * len(self.average))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged parameters by name."""
        return self.average

    @torch.no_grad()
    def load_state_dict(self, average: dict[str, torch.Tensor], num_updates: int) -> None:
        """Restore averages of equal names and shapes."""
        if average.keys() != self.average.keys():
            raise ValueError("the stored average has other parameters than the network")
        for name, value in average.items():
            self.average[name].copy_(value)
        self._updates.fill_(num_updates)


def power_of_length(relative_length: float) -> float:
    """gamma of the profile t ** gamma on [0, 1] whose standard deviation is `relative_length`, in (0, 0.288].

    Solves (gamma + 1)^1/2 (gamma + 2)^-1 (gamma + 3)^-1/2 = relative_length. Source: Karras 2024 (EDM2), algorithm 2.
    """
    inverse = relative_length**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real.max())
