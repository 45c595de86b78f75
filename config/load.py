"""YAML and `--set` overrides -> Config. Every mistake is one line: file, key, expected, found, nearest key."""

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from config.errors import SURELY_ALIKE, UserError, nearest_name
from config.paths import expand_path
from config.schema import ONLY_CLASS, Config, DatasetParams, list_contradictions
from config.values import convert, describe, is_within, section_by_name
from config.words import UniqueKeyLoader, Word, settle_words

# What yaml raises besides its own errors, from values such as `!!bool x`, `!!int ''` or `!!timestamp x`.
_YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)

# Where the keys of the published layout live here.
_PUBLISHED_LAYOUT = {
    "unet": "unet_params (down_channels -> channels, attn_down -> attention, num_down_layers -> num_layers, "
            "time_emb_dim -> time_embedding_dim, norm_channels -> norm_groups)",
    "ldm_params": "unet_params (the network's shape), dataset_params.condition_types, train_params.label_dropout "
                  "(cond_drop_prob) and unet_params.context_dim (the embedding of a condition)",
    "vqvae": "autoencoder_params.pretrained (the VAE) and dataset_params (z_channels, latent_size)",
    "vqvae_params": "autoencoder_params.pretrained (the VAE) and dataset_params (z_channels, latent_size)",
    "autoencoder": "autoencoder_params.pretrained (the VAE) and dataset_params (z_channels, latent_size)",
}


class ConfigFaults(UserError):
    """All faults of a config in one line; `faults` has them one by one."""

    def __init__(self, faults: Sequence[str], source: str = "") -> None:
        self.faults = tuple(faults)
        numbered = "; ".join(f"({number}) {fault}" for number, fault in enumerate(faults, start=1))
        told = self.faults[0] if len(self.faults) == 1 else f"{len(self.faults)} faults: {numbered}"
        super().__init__(f"{source}: {told}" if source else told)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `section.key=value` overrides in order, check everything.

    Raises:
        UserError: the file cannot be read.
        ConfigFaults: keys that are unknown, of the wrong type, out of range or in contradiction with others.
    """
    path = Path(expand_path(str(path)))
    raw = _read_yaml(path)
    for override in overrides:
        _apply_override(raw, override)
    return build_config(raw, source=str(path))


def build_config(raw: Mapping[str, Any], *, source: str) -> Config:
    """Plain nested mappings -> checked Config.

    Raises:
        ConfigFaults: every fault of a single key, or where there is none every contradiction; opens with `source`.
    """
    moved = [f"{name} -> {_PUBLISHED_LAYOUT[name]}" for name in raw if name in _PUBLISHED_LAYOUT]
    if moved:
        raise UserError(f"{source}: this is the published layout; its keys are here now: {'; '.join(moved)}")
    try:
        config = _build(Config, raw, prefix="")
    except ConfigFaults as error:
        raise ConfigFaults(error.faults, source) from None
    config = dataclasses.replace(config, dataset_params=_name_the_only_class(config.dataset_params))
    if contradictions := list_contradictions(config):
        raise ConfigFaults(contradictions, source)
    return config


def _name_the_only_class(data: DatasetParams) -> DatasetParams:
    """With `class_names: []` written out: one class of all images, which no column names."""
    if data.params.class_names:
        return data
    return dataclasses.replace(data, params=dataclasses.replace(data.params, class_names=(ONLY_CLASS,), label_column=None))


def settle_keys(raw: Any, key: str = "") -> Any:
    """`raw` without `Word`s: text or booleans, as the config keys ("section.key") within its mappings say; else booleans."""
    hint, limits = _find_key(key)
    if hint is None and isinstance(raw, Mapping):
        return {str(name) if isinstance(name, Word) else name: settle_keys(item, str(name)) for name, item in raw.items()}
    return settle_words(raw, _text_rule(hint, limits))


def config_to_dict(config: Any, *, new_defaults: bool = True) -> dict[str, Any]:
    """A Config, or a section, as plain nested dictionaries and lists that YAML and JSON can hold."""
    def is_left_out(field: dataclasses.Field[Any], value: Any) -> bool:
        has_factory = field.default_factory is not dataclasses.MISSING
        default = field.default_factory() if has_factory else field.default
        return not new_defaults and field.metadata["since"] is not None and value == default

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            fields = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
            return {field.name: plain(item) for field, item in fields if not is_left_out(field, item)}
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        return value

    return plain(config)


def config_to_identity(config: Any) -> dict[str, Any]:
    """`config_to_dict` for a hash: without the keys that are newer than version 0.2 and have their default."""
    return config_to_dict(config, new_defaults=False)


def config_to_yaml(config: Config) -> str:
    """The resolved config as YAML that `load_config` reads back to an equal Config."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True, width=120)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: config file not found; see config/ for examples") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: config file cannot be read ({error})") from error
    try:
        raw = yaml.load(text, Loader=UniqueKeyLoader)  # a subclass of SafeLoader
    except _YAML_ERRORS as error:
        raise UserError(f"{path}: not valid YAML: {_one_line(error)}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected sections such as dataset_params, found {_show(raw)}")
    return raw


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    override = _plain(override)
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"--set {override}: expected section.key=value")
    try:
        value = yaml.load(text, Loader=UniqueKeyLoader) if text.strip() else None  # a subclass of SafeLoader
    except _YAML_ERRORS as error:
        raise UserError(f"--set {override}: the value is not valid YAML: {_one_line(error)}") from error
    section: Any = raw
    for part in parts[:-1]:
        section = section.setdefault(part, {}) if section.get(part) is not None else _replace_none(section, part)
        if not isinstance(section, dict):
            raise UserError(f"--set {override}: {_plain(part)} is not a section")
    section[parts[-1]] = value


def _replace_none(section: dict[str, Any], part: str) -> dict[str, Any]:
    section[part] = {}
    return section[part]


def _build(cls: type, raw: Any, *, prefix: str) -> Any:
    """Fill the dataclass `cls` from a mapping, checking names, types and ranges on the way.

    Raises:
        ConfigFaults: all that is wrong in it.
    """
    where = prefix.rstrip(".") or "the file"
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        raise ConfigFaults([f"{where}: expected keys and values, found {_show(raw)}"])
    fields = {field.name: field for field in dataclasses.fields(cls)}
    faults = [f"{prefix}{_plain(name)}: unknown key{_nearest(str(name), fields, prefix)}"
              for name in raw if name not in fields]
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in raw:
            try:
                values[name] = _parse(raw[name], hints[name], field.metadata, key=f"{prefix}{name}")
            except ConfigFaults as error:
                faults += error.faults
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults.append(f"{prefix}{name}: required key is missing ({field.metadata['doc']})")
    if faults:
        raise ConfigFaults(faults)
    return cls(**values)


def _parse(value: Any, hint: Any, limits: Mapping[str, Any], *, key: str) -> Any:
    """Check and convert one value to the type `hint`; numeric strings count as numbers for floats."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, prefix=f"{key}.")
    if (section := section_by_name(hint)) is not None:
        return _build_each(section, value, key=key)
    value = settle_words(value, _text_rule(hint, limits))
    if limits.get("numbers_as_text"):
        value = _write_numbers(value)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None:
        if types.NoneType in options:
            return None
        raise ConfigFaults([f"{key}: expected {describe(hint, limits)}, found nothing"])
    for option in options:
        parsed = convert(value, option)
        if parsed is not None and is_within(parsed, limits):
            return _expand(parsed, key) if limits.get("is_path") else parsed
    remedy = ""
    if isinstance(value, bool) and limits.get("choices"):
        remedy = f"; YAML reads off and no as False: quote the value{' or write disabled' if not value else ''}"
    elif isinstance(value, list) and any(isinstance(item, bool) for item in value):
        remedy = "; YAML reads on, off, yes and no as True and False: quote them"
    raise ConfigFaults([f"{key}: expected {describe(hint, limits)}, found {_show(value)}{remedy}"])


def _text_rule(hint: Any, limits: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a word that YAML reads as true or false is text here: a choice of the key's, or an item of free text."""
    choices = limits.get("choices")
    if choices:
        return lambda word: word in choices
    is_free = bool(limits.get("numbers_as_text")) or hint == tuple[str, ...]
    return lambda _: is_free


def _find_key(key: str) -> tuple[Any, Mapping[str, Any]]:
    """Type and limits of a dotted key; None and nothing where there is none of this name."""
    cls, hint, limits = Config, None, {}
    for part in key.split("."):
        if hint is not None and (section := section_by_name(hint)) is not None:
            cls, hint = section, section  # `part` is a name of the user's
            continue
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        if part not in hints:
            return None, {}
        hint = hints[part]
        limits = next(field.metadata for field in dataclasses.fields(cls) if field.name == part)
        cls = hint
    return hint, limits


def _expand(value: Any, where: str) -> Any:
    """A path, or each path of a mapping, with `~` and variables filled in."""
    try:
        if isinstance(value, Mapping):
            return {name: expand_path(text) for name, text in value.items()}
        return expand_path(value)
    except UserError as error:
        raise ConfigFaults([f"{where}: {error}"]) from error


def _write_numbers(value: Any) -> Any:
    """The numbers in a list, or those that are values of a mapping, as text."""
    if isinstance(value, Mapping):
        return {name: _write_number(item) for name, item in value.items()}
    return [_write_number(item) for item in value] if isinstance(value, list | tuple) else value


def _write_number(item: Any) -> Any:
    return str(item) if isinstance(item, int | float) and not isinstance(item, bool) else item


def _build_each(cls: type, raw: Any, *, key: str) -> dict[str, Any]:
    """A section for every name that the user chose; a bare list is the section's first key."""
    raw = {} if raw is None else raw
    if not isinstance(raw, Mapping):
        raise ConfigFaults([f"{key}: expected names with values, found {_show(raw)}"])
    first = dataclasses.fields(cls)[0].name
    sections, faults = {}, []
    for name, value in raw.items():
        given = {first: value} if isinstance(value, list | tuple) else value
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            faults.append(f"{key}: expected names as keys, found {_show(name)}; quote it where it is a number")
        elif not isinstance(given, Mapping):
            faults.append(f"{key}.{name}: expected a list of {first}, or a mapping with {first}, found {_show(value)}")
        else:
            try:
                sections[str(name)] = _build(cls, given, prefix=f"{key}.{name}.")
            except ConfigFaults as error:
                faults += error.faults
    if faults:
        raise ConfigFaults(faults)
    return sections


def _nearest(name: str, fields: Iterable[str], prefix: str) -> str:
    names = list(fields)
    match = nearest_name(name, names)
    alike = nearest_name(name, names, alike=SURELY_ALIKE) is not None
    section = _section_of(name)
    if section and not alike:
        return f"; did you mean {section}.{name}?"
    if match:
        return f"; did you mean {prefix}{match}?"
    return f"; the keys here are {', '.join(names)}"


def _section_of(name: str, cls: type = Config, prefix: str = "") -> str | None:
    """The dotted section that has a key of exactly this name."""
    for field_name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            section = f"{prefix}{field_name}"
            if name in {field.name for field in dataclasses.fields(hint)}:
                return section
            if found := _section_of(name, hint, f"{section}."):
                return found
    return None


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(text: Any) -> str:
    """Text of the user's for the middle of a message: as it is, or quoted where it would break the line."""
    text = str(text)
    return text if text.isprintable() else _show(text)


def _one_line(error: Exception) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return re.sub(r" +", " ", printable).strip()
