"""What of a config and of an evaluation may be released: allow lists of keys and kinds of values. Writes nothing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from config.schema import SPLITS, Config, DatasetParams
from tools.evaluation.evaluation_report import EvaluationReport, ReportDetails
from tools.evaluation.metric_keys import parse_metric
from tools.evaluation.rows import Row
from tools.evaluation.summary import read_study
from tools.release.leaks import Secrets

_REMOVED = "removed_"  # and the key
_PROVENANCE = ("schema", "real_split", "vae_sha256", "checkpoint_sha256", "num_images", "class_names", "encoders")
_OUR_DATA_SET = DatasetParams.target  # the default, which says nothing about its user
_FREE_TEXT = frozenset({"class_names", "levels", "lora_targets"})  # texts that are kept: names of classes, levels and layers


def clean_config(config: Config) -> dict[str, Any]:
    """The config with numbers, switches and choices; other texts (paths, tables, columns) are removed."""
    return _clean_section(config)


def clean_evaluation(stored: Mapping[str, Any], secrets: Secrets) -> EvaluationReport:
    """The evaluation with its rows, and of its provenance what says nothing about single images."""
    provenance = {key: stored["provenance"][key] for key in _PROVENANCE if key in stored.get("provenance", {})}
    return EvaluationReport(
        provenance=_clean_values(provenance, secrets), rows=[_clean_row(row, secrets) for row in stored["rows"]],
        warnings=list(dict.fromkeys(secrets.clean_note(str(text)) for text in stored.get("warnings", []))),
        details=ReportDetails(study=[secrets.clean_note(text) for text in read_study(stored)]),
    )


def _clean_section(section: Any) -> dict[str, Any]:
    return {field.name: _clean_setting(getattr(section, field.name), field.name, field.metadata.get("choices"))
            for field in dataclasses.fields(section)}


def _clean_setting(value: Any, name: str, choices: Sequence[str] | None) -> Any:
    if dataclasses.is_dataclass(value):
        return _clean_section(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, tuple | list):
        kept = [_clean_setting(item, name, choices) for item in value]
        return [] if _REMOVED + name in kept else kept
    if isinstance(value, Mapping):  # by split, or by condition; no other keys are known to be harmless
        kept_keys = value.keys() if name == "conditions" else value.keys() & set(SPLITS)
        return {key: _clean_setting(item, name, None) for key, item in value.items() if key in kept_keys}
    return value if name in _FREE_TEXT or value in (choices or ()) or value == _OUR_DATA_SET else _REMOVED + name


def _clean_row(row: Mapping[str, Any], secrets: Secrets) -> Row:
    read = Row.from_dict(row)
    return dataclasses.replace(read, key=parse_metric(secrets.clean(read.metric)),
                               class_name=secrets.clean(read.class_name),
                               comparison=secrets.clean(read.comparison), note=secrets.clean_note(read.note))


def _clean_values(value: Any, secrets: Secrets) -> Any:
    if isinstance(value, str):
        return secrets.clean(value)
    if isinstance(value, Mapping):
        return {secrets.clean(str(key)): _clean_values(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean_values(item, secrets) for item in value]
    return value
