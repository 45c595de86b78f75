"""Checks of the settings for reading a table of labels; each error is one line."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config.errors import UserError, name_some
from dataset.cells import WHOLE_NUMBER, parse_label, spell_word
from dataset.splits import SPLIT_ALIASES, SPLITS


def check_class_names(class_names: Sequence[str]) -> list[str]:
    names = list(class_names)
    if isinstance(class_names, str) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"class_names: expected a list of names, label 0 first; found {class_names!r}; name each")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"class_names: expected each name once; found twice: {name_some(twice)}; rename one of them")
    padded = [repr(name) for name in names if name != name.strip()]
    if padded:
        raise UserError(f"class_names: found spaces around {name_some(padded)}; remove them")
    confusing = [
        f"{name!r} (label {label})"
        for label, name in enumerate(names)
        if WHOLE_NUMBER.fullmatch(name) and int(name.split(".")[0]) != label
    ]
    if confusing:
        raise UserError(
            f"class_names: a name that is a number must be the number of its label; found {name_some(confusing)}; "
            "give the classes names in words"
        )
    return names


def check_words(
    words: Sequence[str], setting: str, class_names: Sequence[str], csv_file: str | Path | Mapping[str, str] | None
) -> None:
    """Refuse words for "no label" (`missing_labels`, `unlabelled_values`) that are labels, or that no cell can hold."""
    if words and csv_file is None:
        raise UserError(f"{setting}: expected none because csv_file is null and folders name the classes; set it to [], "
                        "and move the images without a label out of root_dir")
    labels = {spell_word(name): label for label, name in enumerate(class_names)}
    wrong = [repr(word) for word in words if parse_label(spell_word(word), labels) is not None]
    if wrong:
        raise UserError(f"{setting}: expected words that are no label, found {name_some(wrong)}; take them out, or out of "
                        "class_names")


def check_conditions(
    conditions: Mapping[str, Sequence[str]], covariate_columns: Sequence[str], label_column: str | None
) -> dict[str, list[str]]:
    """Levels by column, checked."""
    if label_column in conditions:
        raise UserError(f"conditions: {label_column!r} is the label column; name further columns only")
    for name, levels in conditions.items():
        listed = [] if isinstance(levels, str) else list(levels)
        named = all(isinstance(level, str) and level.strip() and level == level.strip() for level in listed)
        if len(listed) < 2 or not named or len(set(listed)) < len(listed):
            raise UserError(f"conditions: {name!r}: expected two levels or more, all different and without spaces around "
                            f"them; found {levels!r}; list each level once")
    twice = [repr(name) for name, count in Counter(covariate_columns).items() if count > 1]
    if twice:
        raise UserError(f"covariate_columns: expected each column once; found twice: {name_some(twice)}; remove one")
    return {name: list(levels) for name, levels in conditions.items()}


def check_split_settings(
    csv_file: str | Path | Mapping[str, str] | None,
    split_column: str | None,
    split_fractions: Mapping[str, float] | None,
    val_from_train: float,
) -> None:
    ways = ["a table per split in csv_file"] if isinstance(csv_file, Mapping) else []
    ways += [f"split_column {split_column!r}"] if split_column is not None else []
    ways += ["split_fractions"] if split_fractions is not None else []
    if len(ways) > 1:
        raise UserError(f"splits: expected one way of splitting, found {' and '.join(ways)}; remove all but one")
    if split_fractions is not None:
        check_fractions(split_fractions)
    if not _is_number(val_from_train) or not 0 <= val_from_train < 1:
        raise UserError(
            f"val_from_train: expected a fraction from 0 to below 1, found {val_from_train!r}; 0 means no val split"
        )


def check_fractions(split_fractions: Mapping[str, float]) -> dict[str, float]:
    """Fractions by canonical name in the order of SPLITS, without those that are 0."""
    named = name_splits(split_fractions, "split_fractions")
    bad = [f"{split}: {value!r}" for split, value in named.items() if not _is_number(value) or not 0 <= value <= 1]
    if bad:
        raise UserError(f"split_fractions: expected fractions from 0 to 1, found {name_some(bad)}; for example train: 0.8")
    if not math.isclose(sum(named.values()), 1, abs_tol=1e-6):
        raise UserError(f"split_fractions: expected a sum of 1, found {sum(named.values()):g}; change one of them")
    if not named.get("train"):
        raise UserError("split_fractions: expected a fraction above 0 for train, found none; give train the largest")
    return {split: share / sum(named.values()) for split, share in named.items() if share}


def name_splits(given: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """`given` with "valid" and "validation" called val, in the order of SPLITS."""
    unknown = [repr(key) for key in given if key not in SPLIT_ALIASES]
    if unknown:
        raise UserError(f"{setting}: expected the splits train, val and test, found {name_some(unknown)}; rename it")
    if len({SPLIT_ALIASES[key] for key in given}) < len(given):
        raise UserError(f"{setting}: expected each split once, found {', '.join(given)}; keep one name for val")
    named = {SPLIT_ALIASES[key]: value for key, value in given.items()}
    return {split: named[split] for split in SPLITS if split in named}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
