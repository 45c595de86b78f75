"""The parts of a report page that show pictures and plots, as HTML. A shareable page gets synthetic images only, and of
these none that is flagged as a near-copy of a training image."""

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from dataset.images import tile_images
from tools.evaluation.exhibits import SYNTHETIC_SET, Exhibits, Pair, shrink
from tools.evaluation.image_set import ImageSet
from tools.evaluation.markup import cell, figure, heading, note, table
from tools.evaluation.plots import draw_curves, draw_ratios, draw_scatter, encode_png

_GRID_COLUMNS, _MISSED_COLUMNS = 4, 8
_WITHHELD_VALUE = 225
_DIFFERENCE_GAIN = 2


def show_classes(exhibits: Exhibits, *, internal: bool) -> str:
    """Grids of each class: all sets side by side, or the synthetic images alone."""
    about = "The first synthetic images of each class and a fixed draw of the real ones; nobody chose them."
    parts = [note(about + " The round trip shows the same real images after the VAE." if internal else
                  "The first synthetic images of each class; nobody chose them.")]
    for name, panels in exhibits.grids.items():
        withheld, figures = exhibits.withheld[name], []
        for set_name, images in panels.items():
            if not internal and set_name != SYNTHETIC_SET:
                continue
            if not len(images):
                figures.append(note(f"{set_name}: none"))
                continue
            shown = images if internal else _withhold(images, withheld)
            hidden = "" if internal or not withheld.any() else f"; {withheld.sum()} near-copies of real images withheld"
            figures.append(figure(encode_png(tile_images(shown, num_columns=_GRID_COLUMNS)),
                                  f"{len(images)} images of class {name}, {set_name}", set_name + hidden))
        kind = "panels sharp" if internal else "panels sharp single"
        parts.append(f"{heading(name)}<div class=\"{kind}\">{''.join(figures)}</div>")
    if exhibits.num_left_out:
        parts.append(note(f"{exhibits.num_left_out} further classes are not shown."))
    return "".join(parts)


def show_flips(flips: ImageSet, class_names: Sequence[str]) -> str:
    """Images that start from the same noise, a row for each label: what the label changes, and what it leaves."""
    parts = [note("Each column starts from one noise. Where the rows do not differ the model ignores the label.")]
    for label, name in enumerate(class_names):
        images = shrink(flips.select(np.flatnonzero(flips.labels == label)).in_memory())
        picture = encode_png(tile_images(images, num_columns=len(images)))
        parts.append(f"<div class=\"sharp wide\">{figure(picture, f'{len(images)} noises drawn as {name}', name)}</div>")
    return "".join(parts)


def show_copies(exhibits: Exhibits, *, name: Callable[[str], str], internal: bool) -> str:
    """Histograms of r, then the nearest pairs: their pictures with held-out controls, or a table of pseudonyms."""
    plots = []
    for ratios in exhibits.ratios:
        share = float((ratios.synthetic < ratios.tau).mean())
        caption = f"{ratios.space}: {share:.2%} under tau, where {ratios.level:.2%} are expected of innocent images"
        plots.append(figure(draw_ratios(ratios), f"histograms of r in the space {ratios.space}", caption))
    parts = [f"<div class=\"plots\">{''.join(plots)}</div>"]
    if not internal:
        lines = [f"<tr>{cell(name(pair.image_id), 'id')}{cell(name(pair.nearest_id), 'id')}"
                 f"{cell(f'{pair.ratio:.3f}', 'number')}{cell('yes' if pair.under_tau else 'no')}</tr>"
                 for pair in exhibits.pairs]
        parts += [heading("The pairs with the lowest r"),
                  note("Ids are salted; the salt and the pictures stay with the real images."),
                  table(("Synthetic", "Training image", "r", "Under tau"), lines, numbers=("r",), kind="narrow")]
        return "".join(parts)
    for title, pairs, first in (("The synthetic images with the lowest r", exhibits.pairs, "synthetic"),
                                ("Controls: of the held-out real images that did not set tau, those with the lowest r",
                                 exhibits.controls, "held out")):
        about = (f"From left: {first}, nearest training image, nearest one of another patient, difference to the nearest "
                 f"({_DIFFERENCE_GAIN} times; black: none). Training images are turned to match.")
        parts += [heading(title), note(about),
                  f"<div class=\"pairs sharp\">{''.join(_show_pair(pair, first) for pair in pairs)}</div>"]
    return "".join(parts)


def show_features(exhibits: Exhibits) -> str:
    """For each encoder the distance against n and the joint principal axes."""
    parts = []
    for one in exhibits.features:
        figures = []
        if all(one.curves.values()):
            figures.append(figure(
                draw_curves(one.curves, one.frechet_name), "Fréchet distance against the number of images",
                "Means and ranges over draws of whole groups. Compare at equal n: synthetic images whose curve lies above "
                "the band of real ones differ from them."))
        figures.append(figure(draw_scatter(one.points, one.explained), "scatter of real, restored and synthetic images",
                              "Two axes show little: sets that overlap here may still differ."))
        parts.append(f"{heading(one.encoder)}<div class=\"plots\">{''.join(figures)}</div>")
    return "".join(parts)


def show_missed(exhibits: Exhibits, *, internal: bool) -> str:
    """How many real images have no synthetic one near them, by the first encoder, and which."""
    first = exhibits.features[0]
    parts = [f"<p>{len(first.missed)} of {first.num_real} held-out real images have no synthetic image in their "
             f"neighbourhood (encoder {escape(first.encoder)}). Training images leave some out, too: compare the numbers of "
             "coverage.</p>"]
    if not internal and first.missed:
        parts.append(note("The internal report shows them."))
    if internal and len(exhibits.missed):
        count = len(exhibits.missed)
        parts.append("<div class=\"sharp wide\">" + figure(
            encode_png(tile_images(exhibits.missed, num_columns=_MISSED_COLUMNS)),
            f"{count} real images that no synthetic image is near to",
            f"The {count} farthest from any synthetic image, the farthest first") + "</div>")
    return "".join(parts)


def _show_pair(pair: Pair, first: str) -> str:
    difference = np.abs(pair.image.astype(np.int16) - pair.nearest) * _DIFFERENCE_GAIN
    tiles = np.stack([pair.image, pair.nearest, pair.second, np.clip(difference, 0, 255).astype(np.uint8)])
    flag = ", under tau" if pair.under_tau else ""
    turn = "" if pair.turn == "identity" else f", shown by {pair.turn.replace('_', ' ')}"
    return figure(encode_png(tile_images(tiles, num_columns=4)), f"{first} image, nearest, second nearest, difference",
                  f"r = {pair.ratio:.3f}{flag}: {pair.image_id}; nearest {pair.nearest_id}{turn}")


def _withhold(images: np.ndarray, withheld: np.ndarray) -> np.ndarray:
    """Gray in the place of the images that may show a patient's."""
    return np.where(withheld[:, None, None, None], np.uint8(_WITHHELD_VALUE), images)
