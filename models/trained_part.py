"""The tensors of a network that a training changes: all of our own networks', adapters and tables of a pretrained one."""

import torch
from torch import nn


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that have a gradient, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


class TrainedPart:
    """A module seen through the parameters that are trained: what a checkpoint holds of it."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = trained_parameters(module)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Put back what `state_dict` gave.

        Raises:
            ValueError: other names or shapes.
        """
        shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        found = {name: tensor.shape for name, tensor in state_dict.items()}
        if found != shapes:
            differing = sorted(name for name in {*shapes, *found} if shapes.get(name) != found.get(name))
            raise ValueError(f"expected the parameters that are trained here, found others, such as {differing[0]}")
        for name, tensor in state_dict.items():
            self._parameters[name].copy_(tensor)
