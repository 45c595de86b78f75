"""What is found in a text or a picture, and what is let through."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from config.load import build_config
from config.schema import Config
from dataset.annotations import ImageRecord
from tools.release.leaks import LEFT_OUT, Secrets, gather_secrets, is_copy, pixel_key


def make_config(tmp_path: Path) -> Config:
    return build_config({
        "dataset_params": {"params": {"csv_file": str(tmp_path / "clinic_a.csv"), "root_dir": str(tmp_path / "images")}},
        "train_params": {"task_name": "runs/first"}, "autoencoder_params": {"pretrained": "owner/vae"},
    }, source="test")


def gather(tmp_path: Path, *names: tuple[str, str]) -> Secrets:
    records = [ImageRecord(image, tmp_path / "images" / image, 0, group, "train") for image, group in names]
    return gather_secrets(make_config(tmp_path), records, own_words=("train", "blastocyst"))


@pytest.mark.parametrize("text", [
    "made in /home/someone/project", 'path="/srv/data"', "csv:/mnt/share/table.csv", "C:\\Users\\someone", "D:/images/one",
    "\\\\server\\share\\x", "file:///etc/hosts", "~/images/one.png", "~someone/images/one.png", "(see /data/x)",
])
def test_absolute_paths_are_found(tmp_path: Path, text: str) -> None:
    assert gather(tmp_path).find(text) is not None
    assert "(path)" in gather(tmp_path).clean(text)
    assert gather(tmp_path).find(gather(tmp_path).clean(text)) is None


@pytest.mark.parametrize("text", [
    "value/limit and n/a", "https://example.org/a/b", "<td>1</td></tr>", "images/class0_000000.png", "runs/features",
    "1/2/3",
    "data:image/png;base64,iVBORw0KGgo+/home/x/y", "total, model_gap: 3", "ratio 1:2",
])
def test_what_only_looks_like_a_path_is_let_through(tmp_path: Path, text: str) -> None:
    assert gather(tmp_path).find(text) is None


def test_paths_of_the_config_are_found_whole() -> None:
    secrets = Secrets({}, frozenset(), frozenset({"/data"}))
    assert secrets.find("in /data") == "the path /data" and secrets.clean("in /data, /data2") == "in (path), /data2"
    assert secrets.find("runs/data and /database") is None


@pytest.mark.parametrize("text", ["image E7_day5.png", "E7_day5", "near E7_day5, r 0.1", "folder/E7_day5.png", "patient P7x",
                                  "P7x_frame2", "table clinic_a.csv", "123456 is near"])
def test_names_of_images_groups_and_tables_are_found(tmp_path: Path, text: str) -> None:
    secrets = gather(tmp_path, ("sub/E7_day5.png", "P7x"), ("123456", "train"))
    assert secrets.find(text) is not None
    assert secrets.clean(text) == LEFT_OUT


def test_a_folder_per_class_has_no_table_to_name(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    params = replace(config.dataset_params.params, csv_file=None)
    config = replace(config, dataset_params=replace(config.dataset_params, params=params))
    assert gather_secrets(config, [], own_words=()).find("table clinic_a.csv") is None


def test_telling_covariates_are_found(tmp_path: Path) -> None:
    record = ImageRecord("E7.png", tmp_path / "E7.png", 0, "P7x", "train", covariates=("Clinic North", "2024-03-09", "34"))
    secrets = gather_secrets(make_config(tmp_path), [record], own_words=())
    assert secrets.find("at Clinic North") == "the covariate Clinic North"
    assert secrets.find("on 2024-03-09") and not secrets.find("34 images") and secrets.common == frozenset()


@pytest.mark.parametrize("text", ["E7_day55", "AP7x", "0.123456", "1234567", "the train split", "class0_123456.png"])
def test_parts_of_words_and_words_of_the_release_are_no_names(tmp_path: Path, text: str) -> None:
    secrets = gather(tmp_path, ("E7_day5.png", "P7x"), ("123456", "train"))
    assert secrets.find(text) is None
    assert secrets.common == {"train"}


def test_short_numbers_are_counted_and_leave_out_the_notes_that_hold_them(tmp_path: Path) -> None:
    secrets = gather(tmp_path, ("17", "3"), ("18", "3"))
    assert secrets.common == {"17", "18", "3"} and secrets.num_common == 3
    assert secrets.find("n 17 and 0.3") is None
    assert secrets.clean_note("nearest is 17") == LEFT_OUT
    assert secrets.clean_note("value 17.5 of 170") == "value 17.5 of 170"
    assert secrets.clean("precision[k=3]") == "precision[k=3]"


def test_the_user_is_a_secret_unless_the_name_is_a_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "mmustermann")
    assert gather(tmp_path).find("by mmustermann") == "the user name mmustermann"
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    assert gather(tmp_path).find("root_dir and root") is None


@pytest.mark.parametrize("change", [
    lambda x: x, np.fliplr, np.flipud, np.rot90, lambda x: np.rot90(x, 2), lambda x: np.rot90(x, 3), lambda x: x.T,
    lambda x: np.stack([x] * 3, axis=-1), lambda x: x[..., None],
])
def test_a_copy_is_found_in_any_turn_and_channel_layout(change: object) -> None:
    real = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    assert is_copy(change(real), frozenset({pixel_key(real)}))


def test_one_level_of_difference_is_no_exact_copy() -> None:
    real = np.random.default_rng(0).integers(1, 255, (8, 8), dtype=np.uint8)
    other = real.copy()
    other[3, 3] += 1
    assert not is_copy(other, frozenset({pixel_key(real)}))
    assert not is_copy(real, frozenset())
