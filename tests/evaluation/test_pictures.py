"""Grids show each image unaltered behind its name; that of real beside synthetic images the first of each class, on its
own side."""

import numpy as np

from tools.evaluation.image_set import ImageSet
from tools.evaluation.side_by_side import compare_side_by_side
from tools.runtime.image_grid import label_grid


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


def test_a_grid_names_its_rows_and_shows_every_image_enlarged() -> None:
    images = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4, 1) + 60
    grid = label_grid([("no", images[:3]), ("empty", images[:0]), ("a longer name", images[3:])], num_columns=2)
    assert grid.dtype == np.uint8 and grid.shape[0] == 3 * 128 + 2 + 7  # two lines of the first, one of the second
    left = grid.shape[1] - (2 * 128 + 2)
    for index, (top, column) in enumerate([(0, 0), (0, 1), (130, 0), (265, 0), (265, 1)]):
        tile = grid[top:top + 128, left + 130 * column:left + 130 * column + 128]
        assert np.array_equal(tile[::32, ::32], images[index])
    names = [grid[:258, :left], grid[265:, :left]]
    assert all(name.min() < 50 for name in names)
    written = [np.flatnonzero((name < 128).any(axis=(0, 2))) for name in names]
    assert np.ptp(written[0]) < np.ptp(written[1]) < left  # the longer name is wider and not cut


def test_a_title_is_never_cut_and_letters_of_other_alphabets_are_written() -> None:
    images = np.full((1, 128, 128, 3), 90, np.uint8)
    plain, titled = (label_grid([("", images)], num_columns=6, title=title) for title in ("", "a title of many letters"))
    assert np.array_equal(plain, images[0])
    assert titled.shape[2] == 3 and titled.shape[1] > 128 and np.array_equal(titled[34:, :128], images[0])
    assert (titled[:34, -8:] == 255).all()
    written = [label_grid([("", images)], num_columns=1, title=title)[:34].tobytes()
               for title in ("\u00e4", "\u03b2", "?", "\n")]
    assert len(set(written[:3])) == 3 and written[3] == written[2]
