"""Folders of synthetic images that another program made: what cannot be listed is refused by name."""

import os
from pathlib import Path

import pytest

from config.errors import UserError
from config.load import build_config
from tools.evaluation.image_sets import open_synthetic


def test_synthetic_files_whose_names_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    config = build_config({"dataset_params": {"params": {"root_dir": "-", "class_names": ["a", "b"]}},
                           "train_params": {"task_name": "-"}, "autoencoder_params": {"pretrained": "-"}}, source="test")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    assert len(open_synthetic(config, tmp_path).records) == 2
    (tmp_path / "b" / os.fsdecode(b"m\xfcller.png")).touch()
    with pytest.raises(UserError, match=r"b: expected names in UTF-8 .* found 1 others: m\\xfcller\.png; give the file"):
        open_synthetic(config, tmp_path)
