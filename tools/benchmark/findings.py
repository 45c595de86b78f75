"""What a measurement found, as a table for the screen and a picture: ratios beside their targets. Measures nothing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dataset.storage import atomic_path


@dataclass(frozen=True)
class Ratio:
    """A measured ratio and its target, which is a lower bound unless `at_most`."""

    name: str
    value: float
    target: float
    at_most: bool = False
    percent: bool = False

    @property
    def holds(self) -> bool:
        return self.value <= self.target if self.at_most else self.value >= self.target

    @property
    def part_of_target(self) -> float:
        """1 where the target is just met, more where it is surpassed."""
        return self.target / self.value if self.at_most else self.value / self.target

    def describe(self) -> str:
        def text(value: float) -> str:
            return f"{value:.1%}" if self.percent else f"{value:.2f}"

        bound = "at most" if self.at_most else "at least"
        target = f"{bound} {text(self.target)}"
        return f"{self.name:<66}{text(self.value):>9}   {target:<16} {'holds' if self.holds else 'MISSED'}"


@dataclass
class Findings:
    """One subject: lines of measured numbers, ratios, and what should have been equal and was not."""

    title: str
    lines: list[str] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    def expect_equal(self, what: str, difference: float, *, tolerance: float) -> None:
        """Note that two ways agree, or that they do not."""
        equal = difference <= tolerance
        self.lines.append(f"{what}: {'equal' if equal else 'UNEQUAL'}, largest difference {difference:.1e} "
                          f"(tolerance {tolerance:g})")
        if not equal:
            self.unequal.append(f"{what} differ by {difference:.2g}, more than {tolerance:g}")

    def describe(self) -> str:
        return "\n".join([self.title, *(f"  {line}" for line in self.lines),
                          *(f"  {ratio.describe()}" for ratio in self.ratios)])

    def to_json(self) -> dict[str, Any]:
        ratios = [{**asdict(ratio), "holds": ratio.holds} for ratio in self.ratios]
        return {"title": self.title, "lines": self.lines, "ratios": ratios, "unequal": self.unequal, "numbers": self.numbers}


def draw_picture(path: Path, findings: Sequence[Findings], *, encoding: Sequence[tuple[int, float]] = ()) -> None:
    """PNG of every ratio as a part of its target and, where given, seconds of encoding by the number of images."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    ratios = [ratio for finding in findings for ratio in finding.ratios][::-1]
    figure, axes = pyplot.subplots(1, 2 if encoding else 1, squeeze=False, layout="constrained",
                                   figsize=(15 if encoding else 10, 1.5 + 0.32 * len(ratios)),
                                   width_ratios=[2.2, 1] if encoding else [1])
    bars = axes[0][0]
    bars.barh([ratio.name for ratio in ratios], [ratio.part_of_target for ratio in ratios],
              color=["#3b7a57" if ratio.holds else "#b5523b" for ratio in ratios])
    bars.axvline(1, color="black", linewidth=1)
    bars.set_xscale("log")
    bars.set_xlabel("part of the target that is reached (1: just met; green: holds)")
    for row, ratio in enumerate(ratios):
        label = f" {ratio.value:.1%}" if ratio.percent else f" {ratio.value:.2f}"
        bars.text(max(ratio.part_of_target, 1), row, label, va="center", fontsize=8)
    bars.margins(x=0.1)  # room for the longest bar's label
    if encoding:
        line = axes[0][1]
        counts, seconds = zip(*encoding, strict=True)
        line.loglog(counts, seconds, "o-", color="#3b5a7a", label="measured")
        line.loglog(counts, [seconds[-1] / counts[-1] * count for count in counts], "--", color="gray", label="linear")
        line.set_xlabel("images")
        line.set_ylabel("seconds to encode")
        line.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)
