"""Paths with ~ and variables: filled in wherever a path is read, the same text where there is neither."""

import ast
import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from config.errors import UserError
from config.load import load_config
from config.paths import as_path, expand_path
from config.schema import Config
from tools.study.plan import load_study

ROOT = Path(__file__).parents[2]
SECTIONS = {"dataset_params": {"params": {"root_dir": "images"}}, "train_params": {"task_name": "run"},
            "autoencoder_params": {"pretrained": "vae"}}
NO_PATHS = {  # text of other meaning, without choices
    "image_column", "label_column", "group_column", "split_column", "target", "ldm_ckpt_name", "wandb_project",
    "subfolder",  # a folder within a path
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in (("HOME", tmp_path / "home"), ("SCRATCH", tmp_path / "scratch")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("NOWHERE", raising=False)
    return tmp_path / "home"


def text_keys(cls: type = Config, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Dotted names of all keys that hold free text, or several by name."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from text_keys(hint, f"{prefix}{field.name}.")
        elif (hint is str or str in typing.get_args(hint)) and not field.metadata["choices"] \
                and typing.get_origin(hint) is not tuple and not field.metadata["numbers_as_text"] \
                and not str(hint).startswith("collections"):
            yield f"{prefix}{field.name}", field


def test_every_key_of_text_is_a_path_or_known_to_be_none() -> None:
    assert {name for name, field in text_keys() if not field.metadata["is_path"]} == {
        name for name, _ in text_keys() if name.split(".")[-1] in NO_PATHS}


def read(config: Config, key: str) -> object:
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("key", [name for name, field in text_keys() if field.metadata["is_path"]])
def test_every_path_key_is_filled_in(tmp_path: Path, home: Path, key: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SECTIONS), encoding="utf-8")
    guided = ["sample_params.guidance_scale=2"]  # and what else a key asks for
    guided += ["dataset_params.condition_types=[context_class]"] * (key == "unet_params.pretrained")
    for text, wanted in (("~/a b/c", f"{home}/a b/c"), ("$SCRATCH/c", f"{tmp_path}/scratch/c"), ("./a//c/", "./a//c/"),
                         ("${SCRATCH}c", f"{tmp_path}/scratchc")):
        assert read(load_config(path, [*guided, f"{key}={text}"]), key) == wanted
    with pytest.raises(UserError, match=rf"{key}: \$NOWHERE/c: the environment variable NOWHERE is not set"):
        load_config(path, [*guided, f"{key}=$NOWHERE/c"])


def test_tables_of_splits_and_the_config_itself_are_filled_in(home: Path) -> None:
    home.mkdir()
    (home / "config.yaml").write_text(yaml.safe_dump(SECTIONS), encoding="utf-8")
    config = load_config("~/config.yaml", ["dataset_params.params.csv_file={train: ~/a.csv, test: $SCRATCH/b.csv}"])
    assert config.dataset_params.params.csv_file == {"train": f"{home}/a.csv", "test": f"{home.parent}/scratch/b.csv"}


def test_paths_and_words_of_a_study_are_read_as_those_of_a_config(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("""
base: ~/base.yaml
output: $SCRATCH/study
screen_minutes: 1
final_minutes: 1
seeds: [1]
test: no
arms:
  on: {train_params.mixed_precision: no, dataset_params.standardise_latents: no}
grid: {train_params.compile_mode: [off, default]}
""", encoding="utf-8")
    study = load_study(path)
    assert (study.base, study.output, study.test) == (f"{home}/base.yaml", f"{tmp_path}/scratch/study", False)
    assert {arm.name: dict(arm.overrides) for arm in study.arms} == {
        "on": {"train_params.mixed_precision": "no", "dataset_params.standardise_latents": False},
        "compile_mode_off": {"train_params.compile_mode": "off"},
        "compile_mode_default": {"train_params.compile_mode": "default"}}


@pytest.mark.parametrize("text", ["", "a", "a/~/b", "cost$", "a$1", "a~", "~nobody-of-this-name/a", "./a/", "C:\\a"])
def test_what_a_shell_would_leave_alone_stays(text: str) -> None:
    assert expand_path(text) == text


def test_no_home_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda text: text)
    with pytest.raises(UserError, match="~/a: there is no home folder"):
        as_path("~/a")


@pytest.mark.parametrize("file", sorted([*ROOT.glob("*.py"), *ROOT.glob("tools/**/*.py")]), ids=lambda path: path.name)
def test_every_option_that_is_a_path_is_filled_in(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            values = {word.arg: word.value for word in node.keywords}
            assert ast.unparse(values.get("type", ast.Constant(None))) != "Path", ast.unparse(node)
            shown = ast.literal_eval(values["metavar"]) if "metavar" in values else ""
            if shown in ("DIR", "FILE", "PATH", "TABLE", "IMAGES", "FOLDER", "RUN", "YAML", "CSV", "VAE", "PATH_OR_HUB_ID"):
                assert ast.unparse(values["type"]) in ("as_path", "expand_path"), ast.unparse(node)
