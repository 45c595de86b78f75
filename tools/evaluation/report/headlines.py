"""The few numbers of an evaluation that a front page shows, each with the one to read it beside."""

from collections.abc import Sequence
from dataclasses import dataclass

from tools.evaluation.evidence import Evidence
from tools.evaluation.metric_keys import CLASS_AUC, SSIM, Family
from tools.evaluation.rows import Row
from tools.evaluation.verdict import least_favourable

MOST_HEADLINES = 8


@dataclass(frozen=True)
class Headline:
    """A number for the front page, the number to read it beside, and how."""

    title: str
    row: Row
    beside: Row | None
    beside_title: str
    reading: str


def choose_headlines(rows: Sequence[Row]) -> list[Headline]:
    """At most eight numbers for the front page, the most telling that there are, each with the one to read it beside.

    Distances and scores are those of the features that decide the verdict on fidelity, which are the least favourable.
    """
    known = Evidence(rows)
    encoder = least_favourable(known)
    kernel, pairs = None if encoder is None else encoder.kernel, known.pairs

    def score(family: Family, comparison: str) -> Row | None:
        return None if encoder is None else known.find(encoder.score(family), comparison)

    copies = next((row for row in rows if row.comparison == "copies" and row.value is not None), None)
    alike = "SSIM: above real pairs" if pairs == SSIM else "below real pairs"
    candidates = [  # (rank, title, row, number beside, its title, reading); the lowest ranks go first where there are many
        (0, "distance to real images", known.find(kernel, "total"), known.find(kernel, "real_real"), "real with real",
         "what you get; the nearer to real with real, the better"),
        (1, "of it the VAE", known.find(kernel, "ceiling"), known.find(kernel, "real_real"), "real with real",
         "no diffusion model on this VAE can be better"),
        (1, "of it the diffusion model", known.find(kernel, "model_gap"), known.find(kernel, "floor"), "floor",
         "synthetic against VAE round trip of real"),
        (8, "look like a real image (precision)", score(Family.PRECISION, "total"), score(Family.PRECISION, "real_real"),
         "real with real", "should equal real with real"),
        (3, "real images represented (coverage)", score(Family.COVERAGE, "total"), score(Family.COVERAGE, "real_real"),
         "real with real", "lower: part of the variety is missing"),
        (4, "distinguished from real (AUC)", score(Family.TWO_SAMPLE, "total"), score(Family.TWO_SAMPLE, "real_real"),
         "real with real", "0.5: not at all, 1: always"),
        (6, f"alike among themselves ({pairs.name if pairs else None})", known.find(pairs, "diversity"),
         known.find(pairs, "real_pairs"), "real pairs", f"{alike}: the model repeats itself"),
        (2, "class read from them (AUC)", known.find(CLASS_AUC, "synthetic"), known.find(CLASS_AUC, "held_out"),
         "held-out real", "0.5: no class to be seen"),
        (2, "near-copies of training images", copies, known.find(copies.key if copies else None, "copies_control"),
         "held-out control", "share under the threshold; should equal its level"),
    ]
    present = [c for c in candidates if c[2] is not None]
    kept = sorted(present, key=lambda c: c[0])[:MOST_HEADLINES]
    return [Headline(title, row, beside, beside_title, reading)
            for rank, title, row, beside, beside_title, reading in present
            if row is not None and any(row is c[2] for c in kept)]
