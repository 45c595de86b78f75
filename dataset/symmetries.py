"""The eight flips and turns of a square image, by name. The config says which of them the optics allow."""

import torch

# name -> (quarter turns counter-clockwise, then mirrored left-right)
_ACTIONS = {
    "identity": (0, False),
    "rotate_90": (1, False),
    "rotate_180": (2, False),
    "rotate_270": (3, False),
    "mirror": (0, True),
    "anti_transpose": (1, True),
    "flip": (2, True),
    "transpose": (3, True),
}


def apply_symmetry(images: torch.Tensor, name: str) -> torch.Tensor:
    """Turn or flip square images (..., H, H). `mirror` swaps left and right, `flip` top and bottom."""
    quarter_turns, mirrored = _ACTIONS[name]
    turned = torch.rot90(images, quarter_turns, dims=(-2, -1))
    return turned.flip(-1) if mirrored else turned
