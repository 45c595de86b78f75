"""The exponential moving average of a network's weights, which is what samples and is published."""

import torch
from torch import nn


class ExponentialMovingAverage:
    """Average of parameters with a warm-up, so that early averages forget the initial weights.

    After update n the decay is min(decay, (1 + n) / (10 + n)). A decay of 0 is no average: the weights themselves.
    Source: the warm-up of TensorFlow's ExponentialMovingAverage(num_updates).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.average = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present parameters."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        parameters = dict(module.named_parameters())
        torch._foreach_lerp_(
            list(self.average.values()), [parameters[name].detach() for name in self.average], 1.0 - decay
        )

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
        self.num_updates = num_updates
