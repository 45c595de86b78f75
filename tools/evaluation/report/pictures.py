"""The parts of a report page that show pictures and plots, as HTML. A shareable page gets synthetic images only, and of
these none that is flagged as a near-copy of a training image."""

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from dataset.images import tile_images
from tools.evaluation.image_set import ImageSet
from tools.evaluation.report.exhibits import REAL_SET, RESTORED_SET, SYNTHETIC_SET, Exhibits, Pair, shrink
from tools.evaluation.report.markup import box, cell, figure, heading, join, note, table
from tools.evaluation.report.plots import draw_curves, draw_ratios, draw_scatter, encode_png

_GRID_COLUMNS, _MISSED_COLUMNS = 4, 8
_IMAGES_OF_MANY_CLASSES = ((3, 12), (6, 8))  # up to so many classes, so many images of each; of more classes four
_FEWEST_IMAGES = 4
_ROUND_TRIPS, _FEWEST_ROUND_TRIPS = 12, 2  # of all classes together, and of a class
_FRONT_PAIRS, _FRONT_CONTROLS = 6, 2
_SMALL_TILE_PX = 64  # of what the front of the page does not show
_WITHHELD_VALUE = 225
_DIFFERENCE_GAIN, _ROUND_TRIP_GAIN = 2, 5
_SELECT = "Select an image (click, tap or Enter) to enlarge it, and once more to close it."


def show_classes(exhibits: Exhibits, *, internal: bool) -> Markup:
    """Images of each class: real beside synthetic, or synthetic alone."""
    count = next((images for classes, images in _IMAGES_OF_MANY_CLASSES if len(exhibits.grids) <= classes), _FEWEST_IMAGES)
    if internal:
        parts = [note("The first synthetic images of each class and a fixed random sample of the real ones; nobody chose "
                      f"them. {_SELECT}")]
    else:
        parts = [note("The first synthetic images of each class; nobody chose them. This page shows synthetic images only. "
                      f"The internal report shows real images beside them. {_SELECT}")]
    singles = []
    for name, panels in exhibits.grids.items():
        real = panels[REAL_SET][:count]
        made = _show_synthetic(name, panels[SYNTHETIC_SET][:count], exhibits.withheld[name][:count], internal=internal)
        if internal:
            parts += [heading(name), box("panels sharp", [_show_real(name, real), made])]
        else:
            singles.append(Markup("<div>{}{}</div>").format(heading(name), made))
    parts += [box("panels sharp", singles)] if singles else []
    if exhibits.num_left_out:
        parts.append(note(f"{exhibits.num_left_out} further classes are not shown."))
    return join(parts)


def _show_real(name: str, images: np.ndarray) -> Markup:
    if not len(images):
        return note("real, held out: none")
    return figure(encode_png(tile_images(images, num_columns=_GRID_COLUMNS)),
                  f"{len(images)} real images of class {name}, held out from training{_in_rows(images)}",
                  "held out from training", title="Real")


def _show_synthetic(name: str, images: np.ndarray, withheld: np.ndarray, *, internal: bool) -> Markup:
    if not len(images):
        return note("synthetic: none")
    hidden = 0 if internal else int(withheld.sum())
    shown = _withhold(images, withheld) if hidden else images
    about = f"{hidden} withheld, which may be near-copies of real images" if hidden else "made by the model"
    return figure(encode_png(tile_images(shown, num_columns=_GRID_COLUMNS)),
                  f"{len(images)} synthetic images of class {name}{_in_rows(images)}"
                  + (f"; {hidden} of them withheld and gray" if hidden else ""), about, title="Synthetic")


def show_nearest(exhibits: Exhibits, *, internal: bool) -> Markup:
    """The few pairs with the lowest r, and controls that cannot be copies; the shareable page has their number only."""
    if not exhibits.pairs:
        return note("Copies of training images were not tested.")
    if not internal:
        return note("The pairs of a synthetic and its nearest training image show real images, so they are in the internal "
                    "report only. The details below list how near they are.")
    pairs, controls = exhibits.pairs[:_FRONT_PAIRS], exhibits.controls[:_FRONT_CONTROLS]
    parts = [note("These synthetic images stand out most as like one training image (lowest r). If one is a copy, you "
                  "see the same cell twice. The training image is turned to match."),
             box("pairs sharp", (_show_pair(pair, "synthetic") for pair in pairs))]
    if controls:
        parts += [heading("For comparison: real held-out images, which cannot be copies"),
                  box("pairs sharp", (_show_pair(pair, "held out") for pair in controls))]
    return join(parts)


def show_round_trips(exhibits: Exhibits) -> Markup:
    """Real images, the same after the VAE, and the difference."""
    parts = [note("What the VAE loses, no diffusion model on it can restore. Top row: real images. Middle: the same after "
                  f"the VAE. Bottom: the difference, {_ROUND_TRIP_GAIN} times (black: none).")]
    count = max(_FEWEST_ROUND_TRIPS, _ROUND_TRIPS // max(1, len(exhibits.grids)))
    for name, panels in exhibits.grids.items():
        real, restored = (panels[key][:count] for key in (REAL_SET, RESTORED_SET))
        if not len(real):
            continue
        tiles = np.concatenate([real, restored, _differ(real, restored, gain=_ROUND_TRIP_GAIN)])
        picture = encode_png(tile_images(tiles, num_columns=len(real)))
        about = f"{len(real)} real images of class {name}, below them their VAE round trips and the differences"
        parts.append(box("sharp wide", [figure(picture, about, "", title=name)]))
    return join(parts)


def show_flips(flips: ImageSet, class_names: Sequence[str]) -> Markup:
    """Images that start from the same noise, a row for each label: what the label changes, and what it leaves."""
    parts = [note("Each column starts from one noise. Where the rows do not differ the model ignores the label.")]
    for label, name in enumerate(class_names):
        images = shrink(flips.select(np.flatnonzero(flips.labels == label)).in_memory())
        picture = encode_png(tile_images(images, num_columns=len(images)))
        parts.append(box("sharp wide", [figure(picture, f"{len(images)} noises drawn as {name}", name)]))
    return join(parts)


def show_ratios(exhibits: Exhibits) -> Markup:
    """Histograms of r."""
    plots = []
    for ratios in exhibits.ratios:
        share = float((ratios.synthetic < ratios.tau).mean())
        caption = f"{ratios.space}: {share:.2%} under tau, where {ratios.level:.2%} are expected without copying"
        about = f"Histograms of r of synthetic and of held-out images, compared by {caption}"
        plots.append(figure(draw_ratios(ratios), about, caption))
    return box("plots", plots)


def show_further_pairs(exhibits: Exhibits, *, name: Callable[[str], str], internal: bool) -> Markup:
    """The pairs and controls after those in front, small; or a table of pseudonyms."""
    if not internal:
        lines = [Markup("<tr>{}{}{}{}</tr>").format(
            cell(name(pair.image_id), "id"), cell(name(pair.nearest_id), "id"), cell(f"{pair.ratio:.3f}", "number"),
            cell("yes" if pair.under_tau else "no")) for pair in exhibits.pairs]
        return (heading("The pairs with the lowest r")
                + note("Ids are salted; the salt and the pictures stay with the real images.")
                + table(("Synthetic", "Training image", "r", "Under tau"), lines, numbers=("r",), kind="narrow",
                        name="pairs with the lowest r"))
    parts = [note("From left: the image, its nearest training image, the nearest one of another patient, the difference to "
                  f"the nearest ({_DIFFERENCE_GAIN} times; black: none). Training images are turned to match.")]
    for title, pairs, first in (("The next synthetic images by r", exhibits.pairs[_FRONT_PAIRS:], "synthetic"),
                                ("Controls: of the held-out real images that did not set tau, those with the lowest r",
                                 exhibits.controls, "held out")):
        if pairs:
            shown = (_show_pair(pair, first, largest_px=_SMALL_TILE_PX) for pair in pairs)
            parts += [heading(title), box("pairs small sharp", shown)]
    return join(parts)


def show_features(exhibits: Exhibits) -> Markup:
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
        parts += [heading(one.encoder), box("plots", figures)]
    return join(parts)


def show_missed(exhibits: Exhibits, *, internal: bool) -> Markup:
    """How many real images have no synthetic one near them, by the features that miss most, and which."""
    first = exhibits.features[0]
    parts = [Markup("<p>{} of {} held-out real images have no synthetic image in their neighbourhood (encoder {}). Training "
                    "images leave some out, too: compare the numbers of coverage.</p>").format(
        len(first.missed), first.num_real, first.encoder)]
    if not internal and first.missed:
        parts.append(note("The internal report shows them."))
    if internal and len(exhibits.missed):
        count = len(exhibits.missed)
        parts.append(box("sharp wide", [figure(
            encode_png(tile_images(exhibits.missed, num_columns=_MISSED_COLUMNS)),
            f"{count} real images that no synthetic image is near to",
            f"The {count} farthest from any synthetic image, the farthest first")]))
    return join(parts)


def _show_pair(pair: Pair, first: str, *, largest_px: int | None = None) -> Markup:
    tiles = np.stack([pair.image, pair.nearest, pair.second, _differ(pair.image, pair.nearest)])
    tiles = tiles if largest_px is None else shrink(tiles, largest_px)
    flag = ", under tau" if pair.under_tau else ""
    turn = "" if pair.turn == "identity" else f", shown by {pair.turn.replace('_', ' ')}"
    names = (first, "nearest training", "of another patient", "difference")
    above = join(Markup("<span>{}</span>").format(name) for name in names)
    about = (f"Four images: {first}, its nearest training image, the nearest of another patient, and the difference of the "
             f"first two; r = {pair.ratio:.3f}{flag}")
    return figure(encode_png(tile_images(tiles, num_columns=4)), about,
                  f"r = {pair.ratio:.3f}{flag}: {pair.image_id}; nearest {pair.nearest_id}{turn}",
                  above=Markup('<span class="columns" aria-hidden="true">{}</span>').format(above))


def _differ(image: np.ndarray, other: np.ndarray, *, gain: int = _DIFFERENCE_GAIN) -> np.ndarray:
    """The amplified absolute difference of uint8 images."""
    difference = np.abs(image.astype(np.int16) - other) * gain
    return np.clip(difference, 0, 255).astype(np.uint8)


def _in_rows(images: np.ndarray) -> str:
    """How images are laid out where there is more than a row."""
    return f", in rows of {_GRID_COLUMNS}" if len(images) > _GRID_COLUMNS else ""


def _withhold(images: np.ndarray, withheld: np.ndarray) -> np.ndarray:
    """Gray in the place of the images that may show a patient's."""
    return np.where(withheld[:, None, None, None], np.uint8(_WITHHELD_VALUE), images)
