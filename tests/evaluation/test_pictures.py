"""The picture of real beside synthetic images shows the first images of each class, unaltered, on its own side."""

import numpy as np

from tools.evaluation.image_set import ImageSet
from tools.evaluation.pictures import compare_side_by_side


def make_set(value: int, labels: list[int], channels: int = 1) -> ImageSet:
    pixels = np.full((len(labels), 40, 40, channels), value, np.uint8)
    pixels[:, :20] += np.array(labels, np.uint8).reshape(-1, 1, 1, 1)  # the upper half tells the class
    names = [str(i) for i in range(len(labels))]
    return ImageSet("set", pixels, np.array(labels), names, names, names)


def test_real_images_are_left_synthetic_ones_right_and_classes_below_each_other() -> None:
    labels = [0, 1] * 20
    picture = compare_side_by_side(make_set(50, labels), make_set(150, labels), class_names=("no", "yes"))
    left, right = np.split(picture, [picture.shape[1] // 2], axis=1)
    upper, lower = np.split(left, [left.shape[0] // 2])
    tiles, text = 18 * 160 * 160, 2000  # pixels: 18 images of a class, enlarged four times; at most so many of the title
    assert (left == 50).sum() > 1.4 * tiles and (right == 150).sum() > 1.4 * tiles
    assert (left == 150).sum() < text and (right == 50).sum() < text
    assert (lower == 51).sum() > 0.4 * tiles and (upper == 51).sum() < text


def test_a_class_with_few_images_leaves_white_places() -> None:
    full = compare_side_by_side(make_set(50, [0, 1] * 20), make_set(150, [0, 1] * 20), class_names=("no", "yes"))
    few = compare_side_by_side(make_set(50, [0, 1] * 20), make_set(150, [0, 1]), class_names=("no", "yes"))
    assert few.shape == full.shape
    assert (few == 255).sum() > (full == 255).sum()


def test_colour_images_keep_their_channels() -> None:
    picture = compare_side_by_side(make_set(50, [0, 1], 3), make_set(150, [0, 1], 3), class_names=("no", "yes"))
    assert picture.shape[2] == 3 and picture.dtype == np.uint8
