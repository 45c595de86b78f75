"""Plots of a report as PNG bytes, and interval bars as SVG text. Equal arguments give equal bytes: no clock, no display.

Owns how numbers are drawn; which are drawn is the page's.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from tools.evaluation.report.exhibits import CurvePoint, RatioExhibit

INK, REAL_COLOUR, SYNTHETIC_COLOUR, RESTORED_COLOUR = "#1f2933", "#8a6d1d", "#1b5e8c", "#7a8793"
_SIZE_INCHES, _DPI = (4.3, 3.0), 170
_BAR_WIDTH, _BAR_HEIGHT, _BAR_MARGIN = 130, 16, 5


def draw_ratios(ratios: RatioExhibit) -> bytes:
    """Histograms of r of synthetic and held-out images, with tau."""
    figure, axes = _open_axes()
    top = float(max(ratios.synthetic.max(), ratios.control.max(), ratios.tau))
    bins = np.linspace(0.0, top * 1.02 + 1e-9, 41).tolist()
    for values, colour, name in ((ratios.control, REAL_COLOUR, "held-out real (control)"),
                                 (ratios.synthetic, SYNTHETIC_COLOUR, "synthetic")):
        weights = np.full(len(values), 1.0 / len(values))
        axes.hist(values, bins=bins, weights=weights, histtype="stepfilled", color=colour, alpha=0.3)
        axes.hist(values, bins=bins, weights=weights, histtype="step", color=colour, linewidth=1.4, label=name)
    axes.axvline(ratios.tau, color=INK, linewidth=1.2, linestyle="--", label=f"tau = {ratios.tau:.3f}")
    axes.set_xlabel("r: distance to the nearest training image\nover that to the next ones (a copy: 0)")
    axes.set_ylabel("share of images")
    axes.legend(fontsize=8, frameon=False)
    return _render(figure)


def draw_curves(curves: Mapping[str, Sequence[CurvePoint]], name: str) -> bytes:
    """A Fréchet distance against n: synthetic against real, with the band of real against real."""
    figure, axes = _open_axes()
    for key, colour, title in (("real_real", REAL_COLOUR, "real with real"),
                               ("total", SYNTHETIC_COLOUR, "synthetic with real")):
        points = curves[key]
        n = [point.n for point in points]
        axes.fill_between(n, [point.low for point in points], [point.high for point in points], color=colour, alpha=0.2,
                          linewidth=0)
        axes.plot(n, [point.mean for point in points], color=colour, marker="o", markersize=3.5, linewidth=1.4, label=title)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("n, images a side")
    axes.set_ylabel(name.split("@")[0] + ("]" if "@" in name else ""))
    axes.legend(fontsize=8, frameon=False)
    return _render(figure)


def draw_scatter(points: Mapping[str, np.ndarray], explained: tuple[float, float]) -> bytes:
    """Images of each set on two joint principal axes of their features."""
    figure, axes = _open_axes()
    styles = ((REAL_COLOUR, "o"), (RESTORED_COLOUR, "s"), (SYNTHETIC_COLOUR, "^"))
    for (name, values), (colour, marker) in zip(points.items(), styles, strict=True):
        axes.scatter(values[:, 0], values[:, 1], s=9, marker=marker, color=colour, alpha=0.45, linewidths=0, label=name)
    axes.set_xlabel(f"axis 1 ({explained[0]:.0%} of the variance)")
    axes.set_ylabel(f"axis 2 ({explained[1]:.0%})")
    axes.legend(fontsize=8, frameon=False, markerscale=1.6)
    return _render(figure)


def draw_interval(
    value: float, interval: tuple[float, float] | None, reference: float | None, limits: tuple[float, float]
) -> Markup:
    """SVG of a value as a dot, its interval as a line and the real reference as a tick, on the scale `limits`."""
    low, high = limits

    def place(number: float) -> str:
        share = (number - low) / (high - low) if high > low else 0.5
        return f"{_BAR_MARGIN + share * (_BAR_WIDTH - 2 * _BAR_MARGIN):.1f}"

    middle = _BAR_HEIGHT // 2
    parts = [f'<line x1="{_BAR_MARGIN}" x2="{_BAR_WIDTH - _BAR_MARGIN}" y1="{middle}" y2="{middle}" class="axis"/>']
    if reference is not None:
        parts.append(f'<line x1="{place(reference)}" x2="{place(reference)}" y1="1" y2="{_BAR_HEIGHT - 1}" '
                     f'class="real" stroke-width="2.5"/>')
    if interval is not None:
        parts.append(f'<line x1="{place(interval[0])}" x2="{place(interval[1])}" y1="{middle}" y2="{middle}" '
                     f'class="made" stroke-width="2.5"/>')
    parts.append(f'<circle cx="{place(value)}" cy="{middle}" r="3.6" class="made"/>')
    return Markup(f'<svg width="{_BAR_WIDTH}" height="{_BAR_HEIGHT}" viewBox="0 0 {_BAR_WIDTH} {_BAR_HEIGHT}" '
                  f'aria-hidden="true">{"".join(parts)}</svg>')  # numbers alone


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, C) as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


def _open_axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.xaxis.label.set_size(9)
    axes.yaxis.label.set_size(9)
    return figure, axes


def _render(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
