"""Several evaluations of the same real images side by side: what can be compared, the lines of the table, the differences.

Stored rows in, numbers out. Files are the command's business, texts and figures are comparison_page.py's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isclose
from typing import Any

from config.errors import UserError, nearest_name
from tools.compare.differences import Better, Difference, Outcome, can_subtract, subtract
from tools.evaluation.direct_checks import Fault, find_faults
from tools.evaluation.encoders.feature_kinds import FeatureKind, kind_of
from tools.evaluation.memorisation import PIXEL_SPACE
from tools.evaluation.metric_keys import CLASS_AUC, OFFICIAL, Family, MetricKey
from tools.evaluation.rows import OVERALL, Row
from tools.evaluation.summary import SummaryLine, summarise

REAL = "real images"  # the column that every comparison has; no system may be called so
NEEDED_PROVENANCE = ("method", "real_split", "images_sha256", "transform", "class_names", "vae_sha256", "encoders")
SCHEMA = 1
_SAME_DISTANCE = 0.01  # of a Fréchet distance among real images: what kinds of processors may differ by
_SAME_SHARE = 0.001


@dataclass(frozen=True)
class System:
    """One evaluation under the name of its column; `sha256` is that of its file."""

    name: str
    sha256: str
    provenance: Mapping[str, Any]
    rows: Sequence[Row]
    study: Sequence[str] = ()

    def find(self, metric: MetricKey, comparison: str) -> Row | None:
        """The overall row, computed or not."""
        return next((row for row in self.rows if (row.key, row.comparison, row.class_name)
                     == (metric, comparison, OVERALL)), None)

    @property
    def encoders(self) -> Mapping[str, Mapping[str, str]]:
        """Hash of the weights and preset of each encoder that was used."""
        return self.provenance["encoders"]

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Real and synthetic images that are compared, overall and by class."""
        return {row.class_name: (row.n_real, row.n_synthetic or 0) for row in reversed(self.rows)
                if row.comparison == "total" and row.n_real is not None}

    @property
    def real_sha256(self) -> dict[str, str]:
        """The hash of the held-out and of the training images by their split."""
        hashes = self.provenance["images_sha256"]
        return {name: hashes.get(name, "none") for name in (self.provenance["real_split"], "train")}

    def describe(self) -> dict[str, Any]:
        """What the JSON file says of the evaluation itself."""
        named = ("checkpoint_sha256", "vae_sha256", "num_images", "num_rejected_as_copies")
        return {"name": self.name, "evaluation_sha256": self.sha256,
                **{key: self.provenance[key] for key in named if key in self.provenance}}


@dataclass(frozen=True)
class Line:
    """A line of the table: a number of every system (None where it has none) and, in the column of real images, what two
    sets of real images have. `better` is None where more is neither better nor worse."""

    section: str
    title: str
    metric: MetricKey
    comparison: str
    better: Better | None
    cells: Mapping[str, Row | None]
    real: Row | None
    is_subtracted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The line with its rows."""
        return {"section": self.section, "title": self.title, "metric": self.metric.name, "comparison": self.comparison,
                "better": None if self.better is None else self.better.value,
                "systems": {name: None if row is None else row.to_dict() for name, row in self.cells.items()},
                "real": None if self.real is None else self.real.to_dict()}


@dataclass(frozen=True)
class SubtractedLine:
    """The differences of a line from the column that it is compared with, by system."""

    line: Line
    differences: Mapping[str, Difference]

    def outcome(self, name: str) -> Outcome | None:
        """What the difference of this system may be called; None where there is none."""
        if name not in self.differences or self.line.better is None:
            return None
        return self.differences[name].outcome(self.line.better)

    def to_dict(self) -> dict[str, Any]:
        """The differences with what they may be called."""
        outcomes = {name: self.outcome(name) for name in self.differences}
        return {"section": self.line.section, "title": self.line.title, "metric": self.line.metric.name,
                "comparison": self.line.comparison,
                "systems": {name: {**asdict(difference), "outcome": None if (of := outcomes[name]) is None else of.value}
                            for name, difference in self.differences.items()}}


@dataclass(frozen=True)
class SystemComparison:
    """Everything that the page, the table and the JSON show. `summaries` has the five lines of each system, `faults` what
    direct checks accuse it of; `left_out` says what is not compared and why."""

    systems: Sequence[System]
    summaries: Mapping[str, Sequence[SummaryLine]]
    faults: Mapping[str, Sequence[Fault]]
    against: str
    lines: Sequence[Line]
    subtracted: Sequence[SubtractedLine]
    left_out: Sequence[str]

    @property
    def num_comparisons(self) -> int:
        return sum(len(one.differences) for one in self.subtracted)

    def to_dict(self) -> dict[str, Any]:
        """The comparison under the keys of its JSON file."""
        first = self.systems[0]
        return {
            "schema": SCHEMA, "systems": [system.describe() for system in self.systems],
            "real": {"split": first.provenance["real_split"], "images_sha256": first.real_sha256,
                     "class_names": first.provenance["class_names"],
                     "counts": {name: list(pair) for name, pair in sorted(first.counts.items())}},
            "summary": {name: [one.to_dict() for one in lines] for name, lines in self.summaries.items()},
            "faults": {name: [{**asdict(fault), "aspect": fault.aspect.value} for fault in faults]
                       for name, faults in self.faults.items()},
            "lines": [line.to_dict() for line in self.lines],
            "against": self.against, "num_comparisons": self.num_comparisons,
            "differences": [one.to_dict() for one in self.subtracted], "left_out": list(self.left_out),
        }


def compare(systems: Sequence[System], *, against: str | None = None) -> SystemComparison:
    """Line the systems up and subtract the numbers of `against`, a system or REAL; the first system by default.

    Raises:
        UserError: fewer than two systems, names that are not unique, or evaluations that cannot be compared.
    """
    _refuse(systems)
    names = [*(system.name for system in systems), REAL]
    against = names[0] if against is None else against
    if against not in names:
        near = nearest_name(against, names)
        raise UserError(f"--against: expected one of {', '.join(names)}, found {against!r}"
                        + (f"; did you mean {near!r}?" if near else ""))
    left_out: list[str] = []
    features = _common_features(systems, left_out)
    lines = [*_feature_lines(systems, features, left_out), *_class_lines(systems, left_out),
             *_copy_lines(systems, features, left_out)]
    summaries = {system.name: summarise(system.rows, study=system.study) for system in systems}
    faults = {system.name: find_faults(system.rows) for system in systems}
    return SystemComparison(systems, summaries, faults, against, lines, _subtract_all(lines, against), left_out)


# What can be compared


def _refuse(systems: Sequence[System]) -> None:
    if len(systems) < 2:
        raise UserError(f"expected two evaluations or more, found {len(systems)}; give each as a folder or a file")
    names = [system.name for system in systems]
    for name in names:
        if name == REAL or names.count(name) > 1:
            found = "is the column of real images" if name == REAL else f"is the name of {names.count(name)} evaluations"
            raise UserError(f"{name}: expected a name for each evaluation, but this {found}; label one with NAME=PATH")
    first = systems[0]
    for other in systems[1:]:
        for what, one, found in (
            ("the method of evaluation", first.provenance["method"], other.provenance["method"]),
            ("the class names", _class_names(first), _class_names(other)),
            ("the split of real images", first.provenance["real_split"], other.provenance["real_split"]),
            *((f"{key} of the transform", first.provenance["transform"].get(key), other.provenance["transform"].get(key))
              for key in sorted(first.provenance["transform"] | other.provenance["transform"])),
            *((f"the {name} images", one, other.real_sha256.get(name)) for name, one in first.real_sha256.items()),
        ):
            if one != found:
                raise UserError(f"{other.name}: expected {what} of {first.name} ({_shorten(one)}), found {_shorten(found)}; "
                                "evaluate both with one config and one release")
        _refuse_counts(first, other)


def _refuse_counts(first: System, other: System) -> None:
    for class_name in dict.fromkeys([OVERALL, *first.counts, *other.counts]):
        one, found = (system.counts.get(class_name, (0, 0)) for system in (first, other))
        if one != found:
            where = "" if class_name == OVERALL else f" of class {class_name}"
            raise UserError(f"{other.name}: expected n as in {first.name}{where} ({one[0]} real and {one[1]} synthetic "
                            f"images), found {found[0]} and {found[1]}; distances depend on n, so sample as many images "
                            "for both")


def _class_names(system: System) -> str:
    return ", ".join(map(str, system.provenance["class_names"]))


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."


def _common_features(systems: Sequence[System], left_out: list[str]) -> list[str]:
    """The encoders that every system has with the same weights and preset, but for in-domain ones.

    Raises:
        UserError: there is none.
    """
    common = []
    for name in dict.fromkeys(name for system in systems for name in system.encoders):
        if kind_of(name) is FeatureKind.IN_DOMAIN:
            left_out.append(f"features of {name}: they were trained on the training images and do not rank systems")
            continue
        having = [system.name for system in systems if name in system.encoders]
        if len(having) < len(systems):
            left_out.append(f"features of {name}: only {', '.join(having)} {'has' if len(having) == 1 else 'have'} them")
        elif any(system.encoders[name] != systems[0].encoders[name] for system in systems):
            left_out.append(f"features of {name}: their weights or presets differ between the evaluations")
        elif not _read_alike(systems, name):
            left_out.append(f"features of {name}: real images have other distances among themselves in one evaluation than "
                            "in another (images of one are gray, of another in colour?)")
        else:
            common.append(name)
    if not common:
        raise UserError("expected published or untrained features that all evaluations have, found none ("
                        + ("; ".join(left_out) or "no encoder was used") + "); evaluate all with one config and one release")
    return sorted(common, key=lambda name: kind_of(name) is FeatureKind.UNTRAINED)


def _read_alike(systems: Sequence[System], encoder: str) -> bool:
    """Whether the Fréchet distance among real images is the same in all, where there is one."""
    rows = [system.find(_find_key(system, Family.FRECHET, encoder), "real_real") for system in systems]
    values = [row.value for row in rows if row is not None and row.value is not None]
    return all(isclose(value, values[0], rel_tol=_SAME_DISTANCE) for value in values)


def _name_space(system: System, encoder: str) -> str:
    of = system.encoders[encoder]
    return f"{encoder}@{of['weights_sha256'][:8]},{of['preset']}"


def _find_key(system: System, family: Family, encoder: str) -> MetricKey:
    """A metric of these features; in the official space where the weights are the official ones."""
    plain = MetricKey(family, _name_space(system, encoder))
    if encoder == "inception" and system.find(plain, "total") is None:
        return MetricKey(family, OFFICIAL)
    return plain


# The lines


def _feature_lines(systems: Sequence[System], features: Sequence[str], left_out: list[str]) -> list[Line]:
    same_vae = len({system.provenance["vae_sha256"] for system in systems}) == 1
    if not same_vae:
        left_out.append("model gaps: the evaluations have different VAEs, and each gap is to the round trips of its own")
    lines = []
    for encoder in features:
        for title, family, comparison, beside, better, is_subtracted in (
            ("Fréchet distance", Family.FRECHET, "total", "real_real", Better.LOWER, True),
            ("Kernel distance", Family.KERNEL, "total", "real_real", Better.LOWER, True),
            ("Precision", Family.PRECISION, "total", "real_real", Better.HIGHER, False),
            ("Recall", Family.RECALL, "total", "real_real", Better.HIGHER, False),
            ("Coverage", Family.COVERAGE, "total", "real_real", Better.HIGHER, True),
            ("Two-sample AUC", Family.TWO_SAMPLE, "total", "real_real", Better.LOWER, True),
            ("Fréchet distance, model gap", Family.FRECHET, "model_gap", "floor", Better.LOWER, True),
            ("Kernel distance, model gap", Family.KERNEL, "model_gap", "floor", Better.LOWER, True),
        ):
            if same_vae or comparison != "model_gap":
                metric = _find_key(systems[0], family, encoder)
                section = f"{encoder}, {kind_of(encoder).value} features"
                lines.append(_make_line(systems, (section, title, metric), comparison, beside, better, is_subtracted))
    return lines


def _class_lines(systems: Sequence[System], left_out: list[str]) -> list[Line]:
    line = _make_line(systems, ("Class", "Class AUC of a separate classifier", CLASS_AUC), "synthetic", "held_out", None)
    if not _agree(systems, CLASS_AUC, "held_out"):
        left_out.append("class AUC: the classifiers of the evaluations are not the same, since they read held-out real "
                        "images differently")
        return []
    return [line] if any(_has_value(row) for row in line.cells.values()) else []


def _copy_lines(systems: Sequence[System], features: Sequence[str], left_out: list[str]) -> list[Line]:
    spaces = [PIXEL_SPACE, *(_name_space(systems[0], name) for name in features)]
    lines = []
    for title, family, comparison, beside in (("Near-copies", Family.NEAR_COPIES, "copies", "copies_control"),
                                              ("Authentic", Family.AUTHENTICITY, "authentic", "authentic_real")):
        for space in spaces:
            key = MetricKey(family, space)
            line = _make_line(systems, ("Copies", f"{title}, by {key.space}", key), comparison, beside, None)
            if not _agree(systems, line.metric, beside):
                line = replace(line, real=None)
                left_out.append(f"{line.title}, of real images: it differs between the evaluations, as their VAEs do")
            if any(_has_value(row) for row in line.cells.values()):
                lines.append(line)
    return lines


def _make_line(
    systems: Sequence[System], named: tuple[str, str, MetricKey], comparison: str, beside: str, better: Better | None,
    is_subtracted: bool = False,
) -> Line:
    """A line by its section, title and metric; the column of real images has the row `beside` of the first system."""
    section, title, metric = named
    cells = {system.name: system.find(metric, comparison) for system in systems}
    return Line(section, title, metric, comparison, better, cells, systems[0].find(metric, beside), is_subtracted)


def _agree(systems: Sequence[System], metric: MetricKey, comparison: str) -> bool:
    """Whether a share or an area that is about real images only is the same in all that have it."""
    rows = [system.find(metric, comparison) for system in systems]
    values = [row.value for row in rows if row is not None and row.value is not None]
    return not values or max(values) - min(values) <= _SAME_SHARE


def _has_value(row: Row | None) -> bool:
    return row is not None and row.value is not None


# The differences


def _subtract_all(lines: Sequence[Line], against: str) -> list[SubtractedLine]:
    """Every difference that has an interval, each widened for the number of all."""
    pairs = {}
    for number, line in enumerate(lines):
        base = line.real if against == REAL else line.cells[against]
        if line.is_subtracted:
            pairs[number] = {name: (row, base) for name, row in line.cells.items()
                             if name != against and can_subtract(row, base)}
    count = sum(map(len, pairs.values()))
    return [SubtractedLine(lines[number], {name: subtract(row, base, num_comparisons=count)
                                           for name, (row, base) in of_line.items()})
            for number, of_line in pairs.items() if of_line]
