"""Hostile and broken input, one named case a row: every command ends in success or in one line and exit code 2.

A traceback, a hang (the suite's time limit) or a file that the command left half done fails a case. `DONE` is expected
where the input is odd but sound.
"""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from workspace import Workspace, forget_accelerator

import sample_ddpm_class_cond
import train_ddpm_cond
from tools import cache_latents, evaluate
from tools.runtime.command import run_command

DONE = ""
HEADER = "IMAGE_NAME,blastocyst,PATIENT,SPLIT"
SPLITS = ("train", "train", "val", "test")


@dataclass(frozen=True)
class Project:
    """Sixteen images of 16 px, four patients a class, a table, a config; the autoencoder is the workspace's."""

    root: Path
    vae: Path

    @property
    def table(self) -> Path:
        return self.root / "table.csv"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    def make(self) -> "Project":
        self.images.mkdir(parents=True)
        rng = np.random.default_rng(0)
        lines = [HEADER]
        for index in range(16):
            label, patient = index % 2, index // 4
            cv2.imwrite(str(self.images / f"i{index:02d}.png"), rng.integers(0, 256, (16, 16), dtype=np.uint8))
            lines.append(f"i{index:02d}.png,{label},p{patient},{SPLITS[patient]}")
        self.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.write_config({
            "dataset_params": {
                "params": {"csv_file": str(self.table), "root_dir": str(self.images), "im_channels": 1, "image_size": 16,
                           "label_column": "blastocyst", "class_names": ["arrested", "blastocyst"],
                           "group_column": "PATIENT", "split_column": "SPLIT"},
                "z_channels": 4, "latent_size": 4, "directory_latents": str(self.root / "latents"),
                "directory_inception_features": str(self.root / "features"),
            },
            "train_params": {"task_name": str(self.root / "run"), "ldm_batch_size": 4, "max_steps": 2, "num_samples": 2,
                             "validation_draws": 1},
            "autoencoder_params": {"pretrained": str(self.vae)},
            "unet_params": {"channels": [8, 8], "attention": [False, False], "num_layers": 1, "num_heads": 1,
                            "time_embedding_dim": 8, "norm_groups": 4},
            "sample_params": {"num_steps": 1, "num_images": 4, "batch_size": 4},
            "evaluation_params": {"encoders": ["vae"], "max_pairs": 4, "repeats": 2, "bootstrap_repeats": 4},
            "logging_params": {"wandb_mode": "disabled", "progress_bar": False},
        })
        return self

    def write_config(self, values: dict[str, object]) -> None:
        self.config.write_text(yaml.safe_dump(values), encoding="utf-8")

    def set(self, key: str, value: object) -> None:
        """Set a dotted key of the config."""
        values = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        section = values
        *parents, last = key.split(".")
        for parent in parents:
            section = section[parent]
        section[last] = value
        self.write_config(values)

    def edit_row(self, index: int, text: str) -> None:
        """Replace row `index` (from 0) of the table, the header not counted."""
        lines = self.table.read_text(encoding="utf-8").split("\n")
        lines[index + 1] = text
        self.table.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")

    def add_row(self, text: str) -> None:
        self.table.write_text(self.table.read_text(encoding="utf-8") + text + "\n", encoding="utf-8")

    def write_xlsx(self, *sheets: list[list[object]]) -> None:
        """Save the sheets as the table in place of the CSV."""
        book = openpyxl.Workbook()
        book.remove(book.active)
        for number, rows in enumerate(sheets):
            sheet = book.create_sheet(f"s{number}")
            for row in rows:
                sheet.append(row)
        book.save(self.root / "table.xlsx")
        self.set("dataset_params.params.csv_file", str(self.root / "table.xlsx"))

    def rows(self) -> list[list[object]]:
        return [line.split(",") for line in self.table.read_text(encoding="utf-8").splitlines()]


Break = Callable[[Project], object]


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header names this size and whose pixels are a few bytes."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def encoded(kind: str, pixels: np.ndarray | None = None) -> bytes:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16) if pixels is None else pixels
    return cv2.imencode(kind, pixels)[1].tobytes()


def tiff_stack() -> bytes:
    data, pages = io.BytesIO(), [Image.fromarray(np.full((16, 16), value, np.uint8)) for value in (10, 90)]
    pages[0].save(data, format="TIFF", save_all=True, append_images=pages[1:])
    return data.getvalue()


def image(data: bytes, name: str = "i00.png") -> Break:
    """Put these bytes in place of the first image, under this name."""
    def change(project: Project) -> None:
        (project.images / "i00.png").unlink()
        (project.images / name).write_bytes(data)
        project.edit_row(0, f"{name},0,p0,train")

    return change


def row(text: str) -> Break:
    return lambda project: project.edit_row(0, text)


def key(name: str, value: object) -> Break:
    return lambda project: project.set(name, value)


def text(content: str | bytes) -> Break:
    """The config file's whole content."""
    return lambda project: project.config.write_bytes(content.encode() if isinstance(content, str) else content)


def table(content: bytes) -> Break:
    return lambda project: project.table.write_bytes(content)


def link(project: Project, target: Path) -> None:
    (project.images / "i00.png").unlink()
    (project.images / "i00.png").symlink_to(target)


def outside(project: Project) -> Path:
    path = project.root / "outside.png"
    path.write_bytes(encoded(".png"))
    return path


def rename(project: Project, old: str, new: str, *, in_table: str | None = None) -> None:
    (project.images / old).rename(project.images / new)
    project.edit_row(0, f"{new if in_table is None else in_table},0,p0,train")


DECOMPOSED, COMPOSED = "e\u0301.png", "\u00e9.png"
PICKLED = pickle.dumps(os.getcwd)
TABLE = "dataset_params.params"

CONFIGS: dict[str, tuple[Break, str]] = {
    "empty config": (text(""), "expected sections"),
    "config of bytes": (text(b"\xff\xfe\x00"), "cannot be read"),
    "config with a tab": (text("a:\n\t- b"), "not valid YAML"),
    "config that is a list": (text("- a\n- b"), "expected sections"),
    "config that makes an object": (text("a: !!python/object/apply:os.getcwd []"), "not valid YAML"),
    "config with a billion laughs": (
        text("a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: [*c,*c,*c,*c]"), "unknown key"),
    "config that contains itself": (text("dataset_params: &a\n  params: *a\n"), "unknown key|required key|expected"),
    "deeply nested config": (text("a: " + "[" * 2000 + "]" * 2000), "not valid YAML|unknown key"),
    "key given twice": (text("train_params: {}\ntrain_params: {}"), "given twice"),
    "key of a number": (text("1: 2"), "unknown key"),
    "section that is a number": (key("train_params", 3), "expected keys and values"),
    "infinite number": (key("train_params.ldm_lr", float("inf")), "expected a number"),
    "not a number": (key("train_params.ldm_lr", float("nan")), "expected a number"),
    "negative batch": (key("train_params.ldm_batch_size", -1), "at least 1"),
    "image that is huge": (key(f"{TABLE}.image_size", 10**30), "at most 4096"),
    "boolean for a number": (key("train_params.epochs", True), "expected an integer"),
    "off for a mode": (key("logging_params.wandb_mode", False), "quote the value"),
    "class names of one": (key(f"{TABLE}.class_names", ["a"]), "labels that cannot be used"),
    "class names twice": (key(f"{TABLE}.class_names", ["a", "a"]), "different names"),
    "class names that are numbers of other classes": (key(f"{TABLE}.class_names", ["1", "0"]), "number of its label"),
    "class names with markup": (key(f"{TABLE}.class_names", ["<script>alert(1)</script>", "b"]), DONE),
    "class names with line breaks": (key(f"{TABLE}.class_names", ["a\nb", "c"]), "class_names|line"),
    "target of the standard library": (key("dataset_params.target", "os.system"), "target"),
    "target without a module": (key("dataset_params.target", "Embryo_loader"), "expected module.Class"),
    "folder of images that is a file": (
        lambda p: p.set(f"{TABLE}.root_dir", str(p.table)), "expected the folder of images, found a file"),
    "folder of images that is not there": (key(f"{TABLE}.root_dir", "/nowhere/at/all"), "expected the folder of images"),
    "table that is a folder": (lambda p: p.set(f"{TABLE}.csv_file", str(p.images)), "expected a table named"),
    "table that is not there": (lambda p: p.table.unlink(), "nothing there"),
    "VAE folder that is empty": (lambda p: p.set("autoencoder_params.pretrained", str(p.root / "none")), "autoencoder|VAE"),
    "run folder below a file": (lambda p: p.set("dataset_params.directory_latents", str(p.table / "x")), "table.csv"),
}

TABLES: dict[str, tuple[Break, str]] = {
    "empty table": (table(b""), "empty file"),
    "table of a header alone": (table(HEADER.encode()), "only column names"),
    "table of zero bytes": (table(b"\0" * 100), "zero bytes"),
    "table in an unknown encoding": (table(HEADER.encode() + b"\n\x81.png,0,p,train"), "UTF-8"),
    "table in two encodings": (table(HEADER.encode() + "\nä.png,0,ä,train\n".encode() + b"\xe4,0,p,train"), "UTF-8"),
    "table in a German Excel's encoding": (
        lambda p: (rename(p, "i00.png", "ä.png"), p.table.write_bytes(
            p.table.read_text(encoding="utf-8").replace(",", ";").encode("cp1252"))), DONE),
    "table in UTF-16": (
        lambda p: p.table.write_bytes(p.table.read_text(encoding="utf-8").replace(",", "\t").encode("utf-16")), DONE),
    "table that names its delimiter": (
        lambda p: p.table.write_text("sep=;\r\n" + p.table.read_text().replace(",", ";"), encoding="utf-8"), DONE),
    "table with a byte-order mark": (lambda p: p.table.write_bytes(b"\xef\xbb\xbf" + p.table.read_bytes()), DONE),
    "table with semicolons": (
        lambda p: p.table.write_text(p.table.read_text().replace(",", ";"), encoding="utf-8"), DONE),
    "table with a quote left open": (row('"i00.png,0,p0,train'), "unclosed quote|cells"),
    "row with a cell too few": (row("i00.png,0,p0"), "cells"),
    "row with a cell too many": (row("i00.png,0,p0,train,more"), "cells"),
    "column named twice": (
        lambda p: p.table.write_text(p.table.read_text().replace("PATIENT", "SPLIT", 1), encoding="utf-8"), "found twice"),
    "column missing": (
        lambda p: p.table.write_text(p.table.read_text().replace("blastocyst", "blasto", 1), encoding="utf-8"),
        "did you mean"),
    "blank label": (row("i00.png,,p0,train"), "blank"),
    "label NaN": (row("i00.png,NaN,p0,train"), "labels that cannot be used"),
    "label out of range": (row("i00.png,2,p0,train"), "labels that cannot be used"),
    "label with a fraction": (row("i00.png,0.5,p0,train"), "labels that cannot be used"),
    "label of a million digits": (row("i00.png," + "9" * 10**6 + ",p0,train"), "labels that cannot be used|field larger"),
    "label in Arabic digits": (row("i00.png,\u0661,p0,train"), "labels that cannot be used"),
    "group blank": (row("i00.png,0, ,train"), "without a group"),
    "group differs by case": (row("i00.png,0,P0,train"), "differ only by case"),
    "group in two splits": (row("i00.png,0,p2,train"), "more than one split"),
    "split unknown": (row("i00.png,0,p0,trian"), "splits that cannot be used"),
    "row twice": (lambda p: p.add_row("i00.png,0,p0,train"), "the same label"),
    "row twice with labels that differ": (lambda p: p.add_row("i00.png,1,p0,train"), "labels that differ"),
    "row twice, once without suffix": (lambda p: p.add_row("i00,0,p0,train"), "name an image again"),
    "name blank": (row(",0,p0,train"), "without an image name"),
    "name that climbs out": (row("../images/i00.png,0,p0,train"), "lead out of"),
    "name that climbs out backwards": (row("..\\images\\i00.png,0,p0,train"), "lead out of"),
    "absolute name": (row("/etc/passwd,0,p0,train"), "lead out of"),
    "absolute name of a drive": (row("C:\\i00.png,0,p0,train"), "lead out of"),
    "name with a zero byte": (row("i0\0.png,0,p0,train"), "zero bytes|not found"),
    "name by case alone": (row("I00.PNG,0,p0,train"), "names must match exactly"),
    "name with a space": (row(" i00.png,0,p0,train"), "names must match exactly"),
    "name in another Unicode form": (
        lambda p: rename(p, "i00.png", COMPOSED, in_table=DECOMPOSED), DONE),
    "name in the file's Unicode form": (lambda p: rename(p, "i00.png", DECOMPOSED), DONE),
    "name with markup": (lambda p: rename(p, "i00.png", "<img src=x onerror=y>.png"), DONE),
    "name that is a formula": (lambda p: rename(p, "i00.png", "=1+1.png"), DONE),
    "name of an emoji": (lambda p: rename(p, "i00.png", "\U0001f95a.png"), DONE),
    "workbook": (lambda p: p.write_xlsx(p.rows()), DONE),
    "workbook with two sheets": (lambda p: p.write_xlsx(p.rows(), p.rows()), "expected one sheet"),
    "workbook with an empty second sheet": (lambda p: p.write_xlsx(p.rows(), []), DONE),
    "workbook with formulas never computed": (
        lambda p: p.write_xlsx([*p.rows()[:1], ["i00.png", "=0+0", "p0", "train"], *p.rows()[2:]]), "labels|blank|formula"),
    "workbook that is text": (
        lambda p: (p.write_xlsx(p.rows()), (p.root / "table.xlsx").write_bytes(p.table.read_bytes())), "not readable"),
    "workbook that is another archive": (
        lambda p: (p.write_xlsx(p.rows()), zipfile.ZipFile(p.root / "table.xlsx", "w").close()), "not readable"),
    "one class only": (
        lambda p: p.table.write_text(p.table.read_text().replace(",1,", ",0,"), encoding="utf-8"), "found none of"),
    "class without a training image": (
        lambda p: p.table.write_text("\n".join(
            line.replace(",1,", ",0,") if line.endswith("train") else line for line in p.table.read_text().split("\n")),
            encoding="utf-8"), "training images of every class"),
}

IMAGES: dict[str, tuple[Break, str]] = {
    "file of zero bytes": (image(b""), "an empty one"),
    "file of text": (image(b"hello"), "neither PNG"),
    "file of a pickle": (image(PICKLED), "neither PNG"),
    "JPEG named PNG": (image(encoded(".jpg")), "content that is JPEG"),
    "PNG cut": (image(encoded(".png")[:-20]), "cut PNG"),
    "PNG with a flipped bit": (
        image(encoded(".png")[:60] + bytes([encoded(".png")[60] ^ 1]) + encoded(".png")[61:]), "checksum"),
    "PNG bomb": (image(png_of(100_000, 100_000)), "more than"),
    "PNG of four billion": (image(png_of(2**31 - 1, 2**31 - 1)), "more than"),
    "PNG without pixels": (image(png_of(0, 16)), "0 x 16"),
    "PNG of too few bytes": (image(png_of(64, 64)), "cut|too|bytes|pixels"),
    "JPEG cut": (image(encoded(".jpg")[:-30], "i00.jpg"), "cut|JPEG"),
    "BMP cut": (image(encoded(".bmp")[:-30], "i00.bmp"), "cut|BMP"),
    "TIFF cut": (image(encoded(".tif")[:-60], "i00.tif"), "cut|TIFF"),
    "TIFF stack": (image(tiff_stack(), "i00.tif"), "pages|stack|one"),
    "GIF": (image(b"GIF89a" + b"\0" * 40, "i00.gif"), "not one of|not found"),
    "colour for a gray set": (
        image(encoded(".png", np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8))), "colours"),
    "image of one pixel": (image(encoded(".png", np.zeros((1, 1), np.uint8))), DONE),
    "image of 1 x 4000": (image(encoded(".png", np.zeros((1, 4000), np.uint8))), DONE),
    "16-bit image": (image(encoded(".png", np.arange(256, dtype=np.uint16).reshape(16, 16) * 256)), DONE),
    "link to a file outside": (lambda p: link(p, outside(p)), "out of root_dir"),
    "link to a file inside": (
        lambda p: (shutil.move(p.images / "i00.png", p.images / "real.png"),
                   (p.images / "i00.png").symlink_to(p.images / "real.png")), DONE),
    "link to itself": (lambda p: link(p, p.images / "i00.png"), "not found"),
    "link to nothing": (lambda p: link(p, p.root / "nothing.png"), "not found"),
    "link to a device": (lambda p: link(p, Path("/dev/zero")), "not found|out of root_dir"),
    "named pipe": (
        lambda p: ((p.images / "i00.png").unlink(), os.mkfifo(p.images / "i00.png")), "device or pipe|not found"),
    "folder in place of a file": (
        lambda p: ((p.images / "i00.png").unlink(), (p.images / "i00.png").mkdir()), "not found|a folder"),
    "two files for a name": (
        lambda p: ((p.images / "i00.bmp").write_bytes(encoded(".bmp")), p.edit_row(0, "i00,0,p0,train")), "fit several"),
}


@pytest.fixture
def project(tmp_path: Path, workspace: Workspace) -> Project:
    return Project(tmp_path, workspace.root / "vae").make()


def end_of(command: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and the error line of a command, which has to end by SystemExit."""
    with pytest.raises(SystemExit) as ending:
        run_command(command)
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == (ending.value.code == 2), errors
    return int(ending.value.code or 0), "".join(lines)


def check(command: Callable[[], None], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = end_of(command, capsys)
    if expected == DONE:
        assert code == 0, line
    else:
        assert code == 2 and any(part in line for part in expected.split("|")), line


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("name", [*CONFIGS, *TABLES, *IMAGES])
def test_a_broken_project(name: str, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    change, expected = {**CONFIGS, **TABLES, **IMAGES}[name]
    change(project)
    check(lambda: cache_latents.main(["--config", str(project.config)]), expected, capsys)
    assert not leftovers(project.root)
    if expected != DONE:
        assert not list((project.root / "latents").rglob("index.json")) or name in IMAGES  # other splits may be whole


def test_there_are_eighty_cases_with_different_names() -> None:
    assert len({**CONFIGS, **TABLES, **IMAGES}) == len(CONFIGS) + len(TABLES) + len(IMAGES) >= 80


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, workspace: Workspace) -> Project:
    """A project trained for two steps and sampled."""
    project = Project(tmp_path_factory.mktemp("trained"), workspace.root / "vae").make()
    for command in (train_ddpm_cond, sample_ddpm_class_cond):
        extra = ["--no-metrics"] if command is sample_ddpm_class_cond else []
        command.main(["--config", str(project.config), *extra])
        forget_accelerator()
    return project


def as_pickle(path: Path) -> None:
    torch.save({"weights": torch.zeros(2), "code": print}, path)


def as_foreign_tensors(path: Path) -> None:
    save_file({"weights": torch.zeros(2)}, path)


CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello", encoding="utf-8"),
    "a pickle": as_pickle,
    "foreign tensors": as_foreign_tensors,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a flipped bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "a header of exabytes": lambda path: path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_broken_checkpoint(name: str, trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.safetensors"
    shutil.copy(trained.root / "run/checkpoints/ddpm_ckpt.safetensors", path)
    CHECKPOINTS[name](path)
    arguments = ["--config", str(trained.config), "--checkpoint", str(path), "--output", str(tmp_path / "out")]
    check(lambda: sample_ddpm_class_cond.main([*arguments, "--no-metrics"]), "weights.safetensors", capsys)
    assert not (tmp_path / "out").exists()


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


MANIFESTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda path: path.unlink(), "expected manifest.csv"),
    "empty manifest": (lambda path: path.write_bytes(b""), "empty file"),
    "manifest of one row": (lambda path: edit(path, lambda text: "\n".join(text.split("\n")[:2])), "none of"),
    "manifest that climbs out": (
        lambda path: edit(path, lambda text: text.replace("class0_000000", "../../table", 1)), "lead out of"),
    "manifest of images that are not there": (
        lambda path: edit(path, lambda text: text.replace("class0_000000", "gone", 1)), "not found"),
    "manifest with other columns": (
        lambda path: edit(path, lambda text: text.replace("label", "lable", 1)), "did you mean"),
    "manifest with labels of no class": (
        lambda path: edit(path, lambda text: text.replace("class0_000000.png,0", "class0_000000.png,7")), "labels"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_broken_manifest(name: str, trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, expected = MANIFESTS[name]
    shutil.copytree(trained.root / "run/samples", tmp_path / "samples")
    change(tmp_path / "samples/manifest.csv")
    arguments = ["--config", str(trained.config), "--synthetic", str(tmp_path / "samples")]
    arguments += ["--output", str(tmp_path / "out")]
    check(lambda: evaluate.main(arguments), expected, capsys)
    assert not (tmp_path / "out/evaluation.json").exists()


def test_real_images_given_as_synthetic_are_refused(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"arrested": 0, "blastocyst": 1}
    for name, label in names.items():
        (tmp_path / "synthetic" / name).mkdir(parents=True)
        for index in range(label, 16, 2):
            shutil.copy(trained.images / f"i{index:02d}.png", tmp_path / "synthetic" / name)
    arguments = ["--config", str(trained.config), "--synthetic", str(tmp_path / "synthetic")]
    arguments += ["--output", str(tmp_path / "out")]
    check(lambda: evaluate.main(arguments), "that are real images of this data set", capsys)


def test_a_feature_cache_that_is_a_pickle_is_never_loaded(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A planted array of objects would run its code if it were unpickled; the cache is made anew instead."""
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    arguments = ["--config", str(trained.config), "--synthetic", str(trained.root / "run/samples"), "--output"]
    run = end_of(lambda: evaluate.main([*arguments, str(tmp_path / "first")]), capsys)
    files = list((trained.root / "features").glob("*.npz"))
    assert run[0] == 0 and files
    for path in files:
        np.savez(path, values=np.array([Payload()], dtype=object), meta=np.array([json.dumps({})]))
    assert end_of(lambda: evaluate.main([*arguments, str(tmp_path / "second")]), capsys)[0] in (0, 2)
    assert not marker.exists()
