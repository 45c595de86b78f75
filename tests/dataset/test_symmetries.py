"""The eight symmetries of the square: closed, distinct, and each what its name says."""

import numpy as np
import pytest
import torch

from config.schema import SYMMETRIES
from dataset.symmetries import apply_symmetry

IMAGE = torch.arange(16.0).view(1, 4, 4)
BY_NAME = {
    "identity": IMAGE[0].numpy(), "mirror": np.fliplr(IMAGE[0]), "flip": np.flipud(IMAGE[0]),
    "rotate_90": np.rot90(IMAGE[0]), "rotate_180": np.rot90(IMAGE[0], 2), "rotate_270": np.rot90(IMAGE[0], 3),
    "transpose": IMAGE[0].numpy().T, "anti_transpose": np.rot90(IMAGE[0], 2).T,
}


def test_config_and_code_name_the_same_eight() -> None:
    assert set(SYMMETRIES) == set(BY_NAME) and len(SYMMETRIES) == 8
    for name in SYMMETRIES:
        apply_symmetry(IMAGE, name)
    with pytest.raises(KeyError):
        apply_symmetry(IMAGE, "rotate_45")


@pytest.mark.parametrize("name", SYMMETRIES)
def test_each_does_what_its_name_says(name: str) -> None:
    assert np.array_equal(apply_symmetry(IMAGE, name)[0], BY_NAME[name])


def test_mirror_swaps_left_and_right() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0] = 1  # bright on the left
    assert torch.equal(apply_symmetry(image, "mirror").nonzero()[:, -1].unique(), torch.tensor([3]))
    assert torch.equal(apply_symmetry(image, "flip"), image)


def test_they_form_a_group() -> None:
    table = {tuple(apply_symmetry(IMAGE, name).flatten().tolist()): name for name in SYMMETRIES}
    assert len(table) == 8
    products = [[table[tuple(apply_symmetry(apply_symmetry(IMAGE, first), second).flatten().tolist())]
                 for second in SYMMETRIES] for first in SYMMETRIES]  # a KeyError would be a product outside
    for row in [*products, *zip(*products, strict=True)]:
        assert sorted(row) == sorted(SYMMETRIES)  # each has an inverse
    assert any(products[i][j] != products[j][i] for i in range(8) for j in range(8))  # D4 does not commute


def test_batches_and_channels_are_turned_alike() -> None:
    images = torch.randn(2, 3, 5, 5)
    for name in SYMMETRIES:
        turned = apply_symmetry(images, name)
        assert turned.shape == images.shape
        assert torch.equal(turned[1, 2], apply_symmetry(images[1, 2], name))
