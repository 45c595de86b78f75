"""config.load and config.schema: what loads, what is refused and in which words, and that nothing else happens."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.errors import UserError, name_some
from config.load import ConfigFaults, build_config, config_to_dict, config_to_identity, config_to_yaml, load_config
from config.schema import _METADATA, ConditionParams, Config

ROOT = Path(__file__).parents[2]
MINIMAL: dict[str, Any] = {
    "dataset_params": {"params": {"csv_file": "labels.csv", "root_dir": "images"}},
    "train_params": {"task_name": "run"},
    "autoencoder_params": {"pretrained": "vae"},
}


def build(**changes: Any) -> Config:
    """The minimal config with changes given as section__subsection__key=value."""
    raw = copy.deepcopy(MINIMAL)
    for name, value in changes.items():
        *sections, key = name.split("__")
        section = raw
        for part in sections:
            section = section.setdefault(part, {})
        section[key] = value
    return build_config(raw, source="test.yaml")


def refusal(**changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        build(**changes)
    message = str(caught.value)
    assert message.isprintable() and message.startswith("test.yaml: ")
    return message


def load_text(folder: Path, text: str, *overrides: str) -> Config:
    path = folder / "given.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def text_refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_text(folder, text, *overrides)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_minimal_config_has_the_documented_defaults() -> None:
    config = build()
    assert config.num_classes == 2
    assert (config.train_params.seed, config.train_params.ldm_lr, config.train_params.label_dropout) == (1111, 5e-4, 0.2)
    assert (config.diffusion_params.num_timesteps, config.diffusion_params.schedule) == (1000, "scaled_linear")
    assert config.sample_params.guidance_scale == 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train_params.seed = 2


@pytest.mark.parametrize("path", sorted([*ROOT.glob("config/*.yaml"), *ROOT.glob("config/baselines/*.yaml")]),
                         ids=lambda path: path.name)
def test_every_config_of_the_repository_loads_and_round_trips(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert load_text(tmp_path, config_to_yaml(config)) == config
    assert build_config(config_to_dict(config), source="again") == config


def test_resolved_yaml_round_trips_values_that_yaml_could_misread(tmp_path: Path) -> None:
    config = build(
        dataset_params__params__csv_file={"train": "ä.csv", "test": "no"}, dataset_params__params__extra={"a": [1, None]},
        dataset_params__params__class_names=["0", "off"], dataset_params__params__conditions={"Grade": ["off", "1", "1e3"]},
        dataset_params__params__covariate_columns=["DATE", "no"], train_params__ldm_lr=1e-7,
        logging_params__wandb_mode="disabled", train_params__task_name="1e3",
    )
    assert load_text(tmp_path, config_to_yaml(config)) == config


@pytest.mark.parametrize(("changes", "wanted"), [
    ({"train_params__epoch": 3}, "train_params.epoch: unknown key; did you mean train_params.epochs?"),
    ({"train_parms": {}}, "did you mean train_params?"),
    ({"train_params__guidance_scale": 3}, "did you mean sample_params.guidance_scale?"),
    ({"train_params__batch_size": 3}, "did you mean train_params.ldm_batch_size?"),
    ({"dataset_params__image_size": 64}, "did you mean dataset_params.params.image_size?"),
    ({"sample_params__qqqqqq": 64}, "the keys here are sampler, num_steps"),
    ({"train_params__line\nbreak": 1}, "train_params.'line\\nbreak': unknown key"),
    ({"train_params__epochs": "many"}, "train_params.epochs: expected an integer, at least 1, found 'many'"),
    ({"train_params__epochs": 2.5}, "expected an integer, at least 1, found 2.5"),
    ({"train_params__epochs": True}, "expected an integer, at least 1, found True"),
    ({"train_params__epochs": None}, "expected an integer, at least 1, found nothing"),
    ({"train_params__epochs": 0}, "expected an integer, at least 1, found 0"),
    ({"train_params__resume_training": "yes please"}, "expected true or false"),
    ({"train_params__ldm_lr": 0}, "expected a number, above 0, found 0"),
    ({"train_params__ldm_lr": float("nan")}, "expected a number, above 0, found nan"),
    ({"train_params__ldm_lr": 10**400}, "expected a number, above 0"),
    ({"train_params__label_dropout": 1}, "at least 0, below 1, found 1"),
    ({"train_params__balanced_sampling": 1.01}, "at most 1, found 1.01"),
    ({"train_params__task_name": " "}, "train_params.task_name: expected text"),
    ({"train_params__max_steps": "soon"}, "expected an integer or null, at least 1"),
    ({"train_params": [1]}, "train_params: expected keys and values, found [1]"),
    ({"dataset_params__params__csv_file": 3}, "expected text or a mapping or null, found 3"),
    ({"dataset_params__params__csv_file": {"train": 3}}, "expected text or a mapping"),
    ({"dataset_params__params__im_channels": 2}, "expected 1 | 3, found 2"),
    ({"dataset_params__params__split_fractions": {"train": 1.5, "val": -0.5}}, "expected a mapping or null"),
    ({"dataset_params__condition_types": "class"}, "expected a list of class | context_class, found 'class'"),
    ({"dataset_params__condition_types": ["clas"]}, "expected a list of class | context_class, found ['clas']"),
    ({"dataset_params__params__conditions": ["GRADE"]}, "params.conditions: expected names with values, found ['GRADE']"),
    ({"dataset_params__params__conditions": {3: ["a", "b"]}}, "conditions: expected names as keys, found 3; quote it"),
    ({"dataset_params__params__conditions": {"GRADE": 3}}, "conditions.GRADE: expected a list of levels, or a mapping"),
    ({"dataset_params__params__conditions": {"GRADE": {"level": ["a"]}}}, "did you mean dataset_params.params.conditions."
     "GRADE.levels?"),
    ({"dataset_params__params__conditions": {"GRADE": {"kind": "ordinal"}}}, "GRADE.levels: required key is missing"),
    ({"dataset_params__params__conditions": {"GRADE": {"levels": ["a", "b"], "kind": "order"}}},
     "conditions.GRADE.kind: expected nominal | ordinal, found 'order'"),
    ({"dataset_params__params__conditions": {"HATCHED": [False, True]}},
     "conditions.HATCHED.levels: expected a list, each text, found [False, True]; YAML reads on, off, yes and no as"),
    ({"dataset_params__params__covariate_columns": "DATE"}, "covariate_columns: expected a list, each text, found 'DATE'"),
    ({"sample_params__sampler": "dpm"}, "expected ddpm | ddim | dpm-solver++ | unipc | euler | heun, found 'dpm'"),
    ({"logging_params__wandb_mode": False}, "YAML reads off and no as False: quote the value or write disabled"),
    ({"train_params__mixed_precision": False}, "expected no | fp16 | bf16, found False; YAML reads off and no as False"),
])
def test_a_single_wrong_key_or_value_is_refused(changes: dict[str, Any], wanted: str) -> None:
    assert wanted in refusal(**changes)


@pytest.mark.parametrize(("section", "key"), [
    ("dataset_params", "params"), ("train_params", "task_name"), ("autoencoder_params", "pretrained"),
])
def test_a_missing_required_key_is_named_with_its_meaning(section: str, key: str) -> None:
    raw = copy.deepcopy(MINIMAL)
    del raw[section][key]
    with pytest.raises(UserError, match=rf"{section}\.{key}: required key is missing \(.+\)"):
        build_config(raw, source="test.yaml")


SPLITS_GIVEN_TWICE = {"dataset_params__params__split_column": "SPLIT",
                      "dataset_params__params__split_fractions": {"train": 1.0}}


@pytest.mark.parametrize(("changes", "wanted"), [
    ({"dataset_params__params__label_column": None}, "label_column: expected a column, found null and class_names ["),
    ({"dataset_params__params__unlabelled": "train", "dataset_params__params__missing_labels": ["ND", "blank"]},
     "missing_labels leaves rows out that unlabelled: train would learn from (blank)"),
    ({"dataset_params__params__class_names": [], "dataset_params__params__unlabelled": "train"},
     "unlabelled: without a label_column no image has a label to lack"),
    ({"dataset_params__params__class_names": ["a", "a"]}, "class_names: expected different names"),
    ({"dataset_params__params__csv_file": {"train": "a", "dev": "b"}}, "csv_file: expected a path, or paths under train"),
    ({"dataset_params__params__csv_file": {"test": "b"}}, "csv_file: expected a path, or paths under train"),
    (SPLITS_GIVEN_TWICE, "give only one of them"),
    ({"dataset_params__params__csv_file": {"train": "a"}, "dataset_params__params__split_column": "SPLIT"},
     "give only one of them"),
    ({"dataset_params__params__split_fractions": {"train": 0.5, "val": 0.4}}, "add up to 1"),
    ({"dataset_params__params__split_fractions": {"val": 1.0}}, "train above 0"),
    ({"dataset_params__params__split_fractions": {"train": 0.5, "dev": 0.5}}, "expected train, val and test"),
    ({"dataset_params__params__conditions": {"GRADE": ["a"]}}, "conditions.GRADE: expected two levels or more"),
    ({"dataset_params__params__conditions": {"GRADE": ["a", "b", "a"]}}, "all different, found ['a', 'b', 'a']"),
    ({"dataset_params__params__conditions": {"GRADE": ["a", "b "]}}, "found spaces around levels"),
    ({"dataset_params__params__conditions": {"blastocist": ["a", "b"]}}, "expected a further column, not the label's"),
    ({"dataset_params__params__conditions": {"Grade": ["a", "b"], "GRADE": ["a", "b"]}},
     "conditions.GRADE: its judge and its grids would be saved under the names of Grade's files"),
    ({"dataset_params__params__conditions": {"age (d)": ["a", "b"], "age_[d]": ["a", "b"]}}, "rename a column"),
    ({"dataset_params__params__covariate_columns": ["a", "a"]}, "covariate_columns: expected each column once"),
    ({"dataset_params__params__conditions": {"seed": ["a", "b"]}}, "conditions.seed: the table of synthetic images has a"),
    ({"sample_params__conditions": {"PLANE": 0}}, "sample_params.conditions.PLANE: expected a name of dataset_params"),
    ({"dataset_params__params__conditions": {"PLANE": [0, 1]}, "sample_params__conditions": {"PLANE": 2}},
     "sample_params.conditions.PLANE: expected one of ['0', '1'], found '2'"),
    ({"dataset_params__symmetries": ["identity"], "dataset_params__symmetry_conditioning": True},
     "symmetry_conditioning: expected several symmetries"),
    ({"dataset_params__condition_types": []}, "condition_types: expected class, context_class or both"),
    ({"dataset_params__condition_types": ["context_class"], "unet_params__attention": [False, False]},
     "context_class acts through attention"),
    ({"dataset_params__symmetries": ["mirror"]}, "symmetries: expected identity first"),
    ({"dataset_params__latent_size": 6}, "latent_size 6 does not divide params.image_size 64"),
    ({"dataset_params__target": "Loader"}, "target: expected module.Class"),
    ({"unet_params__attention": [True]}, "expected one value per level of channels (2), found 1"),
    ({"unet_params__channels": [], "unet_params__attention": []}, "unet_params.channels: expected one level or more"),
    ({"unet_params__channels": [64, 130], "unet_params__num_heads": 1}, "130 is not a multiple of norm_groups 32"),
    ({"unet_params__num_heads": 5}, "64 is not a multiple of num_heads 5"),
    ({"unet_params__time_embedding_dim": 255}, "expected an even number, found 255"),
    ({"dataset_params__latent_size": 1}, "latent_size 1 cannot be halved 1 times"),
    ({"train_params__gradient_accumulation_steps": 5}, "24 is not a multiple of gradient_accumulation_steps 5"),
    ({"train_params__adam_betas": [0.9]}, "adam_betas: expected two numbers"),
    ({"diffusion_params__beta_start": 0.5}, "beta_start must be below beta_end"),
    ({"sample_params__num_steps": 1001}, "num_steps 1001 is above diffusion_params.num_timesteps 1000"),
    ({"sample_params__guidance_scale": 2, "train_params__label_dropout": 0}, "needs a trained null label"),
    ({"diffusion_params__schedule": "rectified_flow"}, "rectified_flow and velocity go together"),
    ({"diffusion_params__prediction_type": "velocity"}, "rectified_flow and velocity go together"),
    ({"diffusion_params__schedule": "rectified_flow", "diffusion_params__prediction_type": "velocity"},
     "sampler dpm-solver++ does not go with diffusion_params.schedule rectified_flow; choose ddim or euler or heun"),
    ({"diffusion_params__schedule": "rectified_flow", "diffusion_params__prediction_type": "velocity",
      "sample_params__sampler": "heun", "diffusion_params__loss_weighting": "min_snr"}, "choose uniform"),
    ({"diffusion_params__schedule": "cosine", "diffusion_params__prediction_type": "epsilon"}, "choose v or x0"),
    ({"sample_params__guide_checkpoint": "a.safetensors"}, "acts with a guidance_scale other than 1 only"),
    ({"train_params__ema_decay": 0, "train_params__ema_relative_length": 0.1}, "remove one of them"),
    ({"sample_params__guidance_interval": [0.8, 0.2]}, "expected [low, high], found [0.8, 0.2]"),
    ({"sample_params__guidance_interval": []}, "expected [low, high], found []"),
    ({"sample_params__per_class": 2, "sample_params__num_images": 4}, "exclude each other"),
    ({"evaluation_params__encoders": []}, "expected one encoder or more"),
    ({"evaluation_params__judge_path": "a", "evaluation_params__classifier_path": "a"}, "trained separately"),
    ({"evaluation_params__judge_path": "b/../a", "evaluation_params__classifier_path": f"{Path.cwd()}/a/"},
     "trained separately"),
    ({"autoencoder_params__training__perceptual_weight": 1}, "needs dataset_params.lpips_path"),
    ({"autoencoder_params__training__channels": [32, 20]}, "multiple of norm_groups 16"),
    ({"autoencoder_params__training__channels": []}, "training.channels: expected one level or more"),
])
def test_keys_that_contradict_each_other_are_refused(changes: dict[str, Any], wanted: str) -> None:
    assert wanted in refusal(**changes)


@pytest.mark.parametrize("section", ["unet", "ldm_params", "vqvae", "vqvae_params", "autoencoder"])
def test_the_published_layout_is_told_where_its_keys_went(section: str) -> None:
    message = refusal(**{section: {"down_channels": [256]}})
    assert f"published layout; its keys are here now: {section} -> " in message and "_params" in message


def test_numeric_strings_count_as_numbers_but_not_as_integers(tmp_path: Path) -> None:
    text = yaml.safe_dump({**MINIMAL, "train_params": {"task_name": "run"}})
    assert load_text(tmp_path, text, "train_params.ldm_lr=5e-4").train_params.ldm_lr == 5e-4  # a string to YAML
    assert build(train_params__ldm_lr="5e-4").train_params.ldm_lr == 5e-4
    assert "found '24'" in refusal(train_params__ldm_batch_size="24")
    assert "found 'inf'" in refusal(train_params__ldm_lr="inf")


def test_levels_of_conditions_come_as_a_list_or_a_section_and_numbers_as_their_text(tmp_path: Path) -> None:
    text = yaml.safe_dump(MINIMAL)
    config = load_text(tmp_path, text, "dataset_params.params.conditions.PLANE=[-15, 0, 15]",
                       "dataset_params.params.conditions.GRADE={levels: [C, B, A], kind: ordinal}")
    assert config.dataset_params.params.conditions == {
        "PLANE": ConditionParams(("-15", "0", "15"), "nominal"), "GRADE": ConditionParams(("C", "B", "A"), "ordinal")}
    assert build(dataset_params__params__conditions=None).dataset_params.params.conditions == {}


def test_words_that_yaml_reads_as_booleans_are_text_where_the_key_takes_that_text(tmp_path: Path) -> None:
    text = yaml.safe_dump(MINIMAL)
    given = text.replace("train_params:\n", "train_params:\n  mixed_precision: no\n  compile_mode: off\n").replace(
        "  params:\n", "  params:\n    class_names: [no, yes]\n    covariate_columns: [Yes, DATE]\n"
        "    conditions: {HATCHED: [on, off], yes: {levels: [True, n]}}\n")
    from_file = load_text(tmp_path, given, "sample_params.conditions={HATCHED: off}")
    from_overrides = load_text(
        tmp_path, text, "train_params.mixed_precision=no", "train_params.compile_mode=off",
        "dataset_params.params.class_names=[no, yes]", "dataset_params.params.covariate_columns=[Yes, DATE]",
        "dataset_params.params.conditions={HATCHED: [on, off], yes: {levels: [True, n]}}",
        "sample_params.conditions={HATCHED: off}")
    assert from_file == from_overrides
    table, train = from_file.dataset_params.params, from_file.train_params
    assert (train.mixed_precision, train.compile_mode) == ("no", "off")
    assert table.class_names == ("no", "yes") and table.covariate_columns == ("Yes", "DATE")
    assert {name: condition.levels for name, condition in table.conditions.items()} == {
        "HATCHED": ("on", "off"), "yes": ("True", "n")}
    assert from_file.sample_params.conditions == {"HATCHED": "off"}
    assert {type(name) for name in (train.mixed_precision, *table.class_names, *table.conditions)} == {str}
    assert load_text(tmp_path, config_to_yaml(from_file)) == from_file


@pytest.mark.parametrize("key", sorted(
    f"{section.name}.{field.name}" for section in dataclasses.fields(Config)
    for field in dataclasses.fields(type(getattr(build(), section.name)))
    if {"no", "off", "on", "yes", "true", "false"} & set(field.metadata["choices"] or ())))
def test_every_choice_that_yaml_reads_as_a_boolean_is_taken_bare(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    field = next(field for field in dataclasses.fields(type(getattr(build(), section))) if field.name == name)
    for word in {"no", "off", "on", "yes", "true", "false"} & set(field.metadata["choices"]):
        assert getattr(getattr(load_text(tmp_path, yaml.safe_dump(MINIMAL), f"{key}={word}"), section), name) == word


@pytest.mark.parametrize(("word", "truth"), [("on", True), ("off", False), ("yes", True), ("No", False), ("true", True),
                                             ("FALSE", False)])
def test_a_boolean_key_takes_all_words_of_yaml(tmp_path: Path, word: str, truth: bool) -> None:
    config = load_text(tmp_path, yaml.safe_dump(MINIMAL), f"train_params.resume_training={word}",
                       f"unet_params.attention=[{word}, yes]", f"dataset_params.params.extra={{a: [{word}]}}")
    assert config.train_params.resume_training is truth and config.unet_params.attention == (truth, True)
    assert config.dataset_params.params.extra == {"a": [truth]}


@pytest.mark.parametrize(("override", "wanted"), [
    ("train_params.mixed_precision=off", "expected no | fp16 | bf16, found False; YAML reads off and no as False"),
    ("logging_params.wandb_mode=off", "quote the value or write disabled"),
    ("train_params.epochs=yes", "expected an integer, at least 1, found True"),
    ("train_params.task_name=on", "train_params.task_name: expected text, found True"),
    ("evaluation_params.encoders=[no]", "found [False]; YAML reads on, off, yes and no as"),
    ("train_params=no", "train_params: expected keys and values, found no"),
])
def test_words_are_refused_where_they_mean_nothing(tmp_path: Path, override: str, wanted: str) -> None:
    assert wanted in text_refusal(tmp_path, yaml.safe_dump(MINIMAL), override)


def test_overrides_apply_in_order_and_reach_absent_sections(tmp_path: Path) -> None:
    text = yaml.safe_dump({**MINIMAL, "logging_params": None})
    config = load_text(tmp_path, text, "train_params.epochs=3", "train_params.epochs=5", "unet_params.channels=[32, 64]",
                       "logging_params.wandb_mode=disabled", "autoencoder_params.training.lr=1e-4", "sample_params.output=")
    assert config.train_params.epochs == 5 and config.unet_params.channels == (32, 64)
    assert config.logging_params.wandb_mode == "disabled" and config.autoencoder_params.training.lr == 1e-4
    assert config.sample_params.output is None


@pytest.mark.parametrize(("override", "wanted"), [
    ("epochs", "expected section.key=value"),
    ("train_params..epochs=3", "expected section.key=value"),
    ("=3", "expected section.key=value"),
    ("train_params.epochs=[1", "the value is not valid YAML"),
    ("train_params.epochs=!!bool x", "the value is not valid YAML"),
    ("train_params.epochs=!!timestamp x", "the value is not valid YAML"),
    ("train_params.task_name.deeper=3", "task_name is not a section"),
    ("train_params.epoch=3", "did you mean train_params.epochs?"),
    ("a\nb=3", "'a\\nb': unknown key"),
    ("a\nb", "--set 'a\\nb': expected section.key=value"),
])
def test_bad_overrides_are_refused(tmp_path: Path, override: str, wanted: str) -> None:
    assert wanted in text_refusal(tmp_path, yaml.safe_dump(MINIMAL), override)


@pytest.mark.parametrize(("text", "wanted"), [
    ("", "expected sections such as dataset_params, found None"),
    ("- a\n- b\n", "expected sections such as dataset_params, found ['a', 'b']"),
    ("train_params: [1\n", "not valid YAML"),
    ("train_params:\n\tepochs: 3\n", "not valid YAML"),
    ("a: 1\n---\nb: 2\n", "not valid YAML"),
    ("train_params: {epochs: 3, epochs: 4}\n", "the key 'epochs' is given twice"),
    ("train_params: {}\ntrain_params: {}\n", "the key 'train_params' is given twice"),
    ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ("a: !!python/name:os.system\n", "not valid YAML"),
    ("a: !!python/tuple [1]\n", "not valid YAML"),
    ("a: !!int ''\n", "not valid YAML"),
    ("? [1]\n: 2\n", "not valid YAML"),
    ("a: &a [*a]\n", "a: unknown key"),
    ("a: " + "[" * 5000, "not valid YAML"),
    ("\"a\\nb\": 1\n", "'a\\nb': unknown key"),
    ("1: 2\n", "1: unknown key"),
    ("\u200b: [", "not valid YAML"),
])
def test_unreadable_yaml_is_refused(tmp_path: Path, text: str, wanted: str) -> None:
    assert wanted in text_refusal(tmp_path, text)


def test_yaml_merge_keys_work_and_may_be_overridden(tmp_path: Path) -> None:
    text = yaml.safe_dump(MINIMAL).replace("train_params:\n", "train_params:\n  <<: {epochs: 7, seed: 3}\n  seed: 4\n")
    config = load_text(tmp_path, text)
    assert (config.train_params.epochs, config.train_params.seed) == (7, 4)


def test_missing_and_undecodable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config file not found; see config/"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="config file cannot be read"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(UserError, match="config file cannot be read"):
        load_config(tmp_path / "latin.yaml")


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    text = """
dataset_params: {params: {root_dir: images, image_sise: 64, conditions: {WELL: {levels: [a, b], kind: odd}, DAY: 5}}}
train_params: {task_name: run, ldm_lr: fast, ldm_batch_size: 0}
autoencoder_params: 7
"""
    with pytest.raises(ConfigFaults) as caught:
        load_text(tmp_path, text)
    wanted = ["dataset_params.params.image_sise: unknown key; did you mean dataset_params.params.image_size?",
              "dataset_params.params.conditions.WELL.kind: expected nominal | ordinal, found 'odd'",
              "dataset_params.params.conditions.DAY: expected a list of levels, or a mapping with levels, found 5",
              "train_params.ldm_batch_size: expected an integer, at least 1, found 0",
              "train_params.ldm_lr: expected a number, above 0, found 'fast'",
              "autoencoder_params: expected keys and values, found 7"]
    assert list(caught.value.faults) == wanted
    assert str(caught.value).startswith(f"{tmp_path / 'given.yaml'}: 6 faults: (1) dataset_params.params.image_sise: ")
    assert str(caught.value).isprintable()


def test_no_class_is_short_for_one_that_no_column_names(tmp_path: Path) -> None:
    config = build(dataset_params__params__class_names=[])
    table = config.dataset_params.params
    assert (table.class_names, table.label_column, config.num_classes) == (("all",), None, 1)
    assert load_text(tmp_path, config_to_yaml(config)) == config
    assert build(dataset_params__params__class_names=["embryo"]).num_classes == 1


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """By dotted key, sections of the schema only."""
    flat = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        flat |= flatten(value, f"{key}.") if any(name.startswith(f"{key}.") for name in _METADATA) else {key: value}
    return flat


def test_identities_leave_newer_keys_out_while_they_have_their_default() -> None:
    whole, plain = flatten(config_to_dict(build())), flatten(config_to_identity(build()))
    newer = {key for key, metadata in _METADATA.items() if metadata["since"] is not None}
    assert whole.keys() - plain.keys() == newer and {"unet_params.prompts", "train_params.start_from"} < newer
    assert flatten(config_to_identity(build(dataset_params__params__unlabelled="train"))) == {
        **plain, "dataset_params.params.unlabelled": "train"}


def test_contradictions_are_named_at_once_where_each_key_is_right() -> None:
    told = refusal(dataset_params__params__class_names=["a", "a"], train_params__adam_betas=[0.9],
                   diffusion_params__prediction_type="velocity")
    assert told.startswith("test.yaml: 3 faults: (1) dataset_params.params.class_names: expected different names")
    assert "; (2) train_params.adam_betas: expected two numbers" in told and "; (3) diffusion_params.schedule" in told


def test_name_some_counts_what_it_leaves_out() -> None:
    assert name_some(["a", "b"]) == "a, b"
    assert name_some(list("abcdefg")) == "a, b, c, d, e and 2 more"


KEYS = st.sampled_from(["dataset_params", "train_params", "params", "epochs", "<<", "unet", "channels", "1", "~"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    KEYS | st.text(max_size=4), inner, max_size=3), max_leaves=8)
SCRAPS = st.lists(st.sampled_from(
    [*"abe01:-?[]{},&*!|>'\"%@`#~= \n\t.<", "a: ", "- ", "!!int ", "!!bool ", "!!set ", "!!omap ", "!!binary ",
     "!!timestamp ", "<<: ", "&a ", "*a", "0x", "train_params: "]
), max_size=14).map("".join)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=SCRAPS | st.text(max_size=20) | TREES.map(yaml.safe_dump))
def test_any_text_ends_in_a_config_or_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(text.encode("utf-8"))
    try:
        load_config(path)
    except UserError as error:
        assert str(error).isprintable()


@settings(max_examples=300, deadline=None)
@given(section=st.sampled_from(["dataset_params", "train_params", "unet_params", "sample_params", "evaluation_params"]),
       data=st.data())
def test_any_value_of_a_known_key_ends_in_a_config_or_in_one_line(section: str, data: st.DataObject) -> None:
    raw = copy.deepcopy(MINIMAL)
    known = list(config_to_dict(build())[section])
    raw.setdefault(section, {})[data.draw(st.sampled_from(known))] = data.draw(TREES)
    try:
        config = build_config(raw, source="any.yaml")
    except UserError as error:
        assert str(error).isprintable()
    else:
        assert build_config(yaml.safe_load(config_to_yaml(config)), source="again") == config


@settings(max_examples=200, deadline=None)
@given(override=SCRAPS | st.text(max_size=12) | SCRAPS.map(lambda text: f"train_params.epochs={text}"))
def test_any_override_ends_in_a_config_or_in_one_line(tmp_path_factory: pytest.TempPathFactory, override: str) -> None:
    path = tmp_path_factory.getbasetemp() / "minimal.yaml"
    path.write_text(yaml.safe_dump(MINIMAL), encoding="utf-8")
    try:
        load_config(path, [override])
    except UserError as error:
        assert str(error).isprintable()
