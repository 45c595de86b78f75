"""A reader study from the pack to the numbers: blindness, order, the key's seal, what is refused, and the command."""

import base64
import csv
import io
import json
import re
import shutil
import struct
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from workspace import CLASS_NAMES, Workspace

from config.errors import UserError
from dataset.annotations import ImageRecord, read_records
from dataset.images import load_image, to_uint8
from dataset.storage import hash_file
from tools.diffusion.project import Project
from tools.make_phantoms.__main__ import PhantomRequest, write_phantoms
from tools.reader_study import __main__ as reader_study
from tools.reader_study.pack import PackRequest, choose_by_group, class_prior, order_showings, render_page

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of another seed, one folder a class; their PNG files differ in compression and carry text."""
    folder = tmp_path_factory.mktemp("synthetic")
    write_phantoms(folder / "drawn", PhantomRequest(num_images=80, image_size=32, difficulty="clear", seed=8))
    with (folder / "drawn/annotations.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            target = folder / "classes" / CLASS_NAMES[int(row["blastocyst"])] / f"made_{row['IMAGE_NAME']}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(folder / "drawn/images" / f"{row['IMAGE_NAME']}.png").convert("RGB").save(target, compress_level=9)
    return folder / "classes"


def run_pack(workspace: Workspace, synthetic: Path, output: Path, *words: str, overrides: tuple[str, ...] = ()) -> None:
    counts = [] if "--num-real" in words else ["--num-real", "10", "--num-synthetic", "12"]
    reader_study.main(["pack", *workspace.arguments(*overrides), "--synthetic", str(synthetic), "--output", str(output),
                       *counts, *words])


def read_page(output: Path) -> dict[str, Any]:
    page = (output / "reader_study.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="pack">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def read_key_file(output: Path) -> dict[str, Any]:
    return json.loads((output.parent / f"{output.name}_key/key.json").read_text(encoding="utf-8"))


def chunks_of(png: bytes) -> list[tuple[str, int]]:
    """Name and length of every chunk."""
    found, place = [], 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place:place + 4])
        found.append((png[place + 4:place + 8].decode("ascii"), length))
        place += 12 + length
    return found


@pytest.fixture(scope="module")
def pack(workspace: Workspace, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("study") / "pack"
    run_pack(workspace, synthetic, output, "--num-round-trip", "4", "--repeats", "0.25", "--seed", "11")
    return output


def test_nothing_but_pixels_tells_the_arms_apart(pack: Path) -> None:
    items = read_page(pack)["items"]
    assert len(items) == 26 + 6 and all(list(item) == ["item", "png"] for item in items)
    assert all(re.fullmatch("[0-9a-f]{16}", item["item"]) for item in items)
    assert len({item["item"] for item in items}) == len(items)
    files = [base64.b64decode(item["png"]) for item in items]
    assert len({len(file) for file in files}) == 1
    assert len({tuple(chunks_of(file)) for file in files}) == 1
    assert {name for name, _ in chunks_of(files[0])} == {"IHDR", "IDAT", "IEND"}
    assert {(image.size, image.mode) for image in map(Image.open, map(io.BytesIO, files))} == {((32, 32), "L")}


def test_no_name_of_a_record_is_in_the_pack(pack: Path, workspace: Workspace) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in pack.iterdir())
    records = (workspace.phantoms / "annotations.csv").read_text(encoding="utf-8")
    names = {word for line in records.splitlines()[1:] for word in line.split(",")[:3:2]}
    key = read_key_file(pack)
    names |= {item[field] for item in key["items"] for field in ("image_id", "group")}
    assert len(names) > 100 and "patient_0000" in names
    for name in names | {"phantom_", "patient_", "made_", "round_trip", str(workspace.root)}:
        assert name not in text
    assert {"arm", "seed", "provenance", "showing"}.isdisjoint(read_page(pack))
    assert "images of patients" in text and "shows patients' images" in (pack / "PATIENT_DATA.txt").read_text()


def test_each_item_shows_what_the_key_says(pack: Path, workspace: Workspace, synthetic: Path) -> None:
    key, page = read_key_file(pack), read_page(pack)
    assert [item["item"] for item in key["items"]] == [item["item"] for item in page["items"]]
    split = {r.image_id: r for r in read_records(
        workspace.phantoms / "annotations.csv", workspace.phantoms / "images", class_names=CLASS_NAMES,
        label_column="blastocyst", group_column="PATIENT_ID", split_column="SPLIT") if r.split == "test"}
    codec = Project.open(workspace.config()).open_codec()
    for item, shown in zip(key["items"], page["items"], strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["png"]))))
        path = synthetic / item["image_id"] if item["arm"] == "synthetic" else split[item["image_id"]].path
        expected = to_uint8(load_image(path, im_channels=1, size_px=32, fit="pad"))
        if item["arm"] == "round_trip":
            expected = to_uint8(codec.round_trip(torch.from_numpy(expected / 127.5 - 1).float()[None])[0])
        assert np.array_equal(pixels, expected[0])
        if item["arm"] != "synthetic":
            assert (item["label"], item["group"]) == (split[item["image_id"]].label, split[item["image_id"]].group)
    first = [item for item in key["items"] if item["showing"] == 1]
    assert Counter(item["arm"] for item in first) == {"real": 10, "synthetic": 12, "round_trip": 4}
    assert len({(item["arm"] == "synthetic", item["image_id"]) for item in first}) == 26
    share = np.mean([record.label for record in split.values()])
    for arm, count in (("real", 10), ("synthetic", 12)):  # both at the held-out images' share of blastocysts
        assert abs(sum(item["label"] for item in first if item["arm"] == arm) - share * count) < 1


def test_the_page_carries_the_hash_of_the_key_and_a_seed_makes_it_again(
    pack: Path, workspace: Workspace, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key_path = pack.parent / "pack_key/key.json"
    assert read_page(pack)["key_sha256"] == hash_file(key_path)
    run_pack(workspace, synthetic, tmp_path / "pack", "--num-round-trip", "4", "--repeats", "0.25", "--seed", "11")
    assert hash_file(key_path) in capsys.readouterr().out
    assert (tmp_path / "pack/reader_study.html").read_bytes() == (pack / "reader_study.html").read_bytes()
    for name in ("first", "second"):
        run_pack(workspace, synthetic, tmp_path / name)
    seeds = [read_key_file(tmp_path / name)["seed"] for name in ("first", "second")]
    assert seeds[0] != seeds[1] and min(seeds) > 2**64  # a key that cannot be guessed from its hash


def test_the_page_asks_no_network_and_keeps_hostile_names_as_text(pack: Path) -> None:
    page = (pack / "reader_study.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and "__PACK__" not in page
    for word in ("http:", "https:", "fetch(", "XMLHttpRequest", "@import", "url(", "sendBeacon", "innerHTML", "<iframe"):
        assert word not in page
    hostile = {"class_names": [HOSTILE, "a & b\u2028"], "items": []}
    rendered = render_page(hostile)
    assert HOSTILE not in rendered and "onerror=alert(1)>" not in rendered and "\u2028" not in rendered
    found = re.search(r'<script type="application/json" id="pack">(.*?)</script>', rendered, re.DOTALL)
    assert found is not None and json.loads(found.group(1)) == hostile


def test_the_page_runs_in_a_browser(pack: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium to open the page with")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([browser, *flags, "--dump-dom", (pack / "reader_study.html").as_uri()], text=True,
                          capture_output=True, timeout=120, check=True)
    start = done.stdout[: done.stdout.index('id="reading"')]
    assert "You will see 32 images one after another." in start and "Which class" not in start
    assert '<option value="R3">R3</option>' in start and read_page(pack)["key_sha256"] in start
    assert done.stdout.count('type="radio" name="confidence"') == 6 and done.stdout.count('type="checkbox"') == 7


@pytest.mark.parametrize("repeats", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("num", [1, 3, 11, 60])
def test_repeats_come_a_quarter_of_the_pack_later_and_from_every_arm(repeats: float, num: int) -> None:
    arms = ["real"] * num + ["synthetic"] * num
    order = order_showings(arms, PackRequest(num, num, repeats=repeats, seed=num))
    places = {showing: place for place, showing in enumerate(order)}
    again = [image for image, showing in order if showing == 2]
    assert len(order) == len(places) == 2 * num + len(again) and len(again) == int(repeats * 2 * num)
    assert {image for image, showing in order if showing == 1} == set(range(2 * num))
    for image in again:
        assert places[image, 2] - places[image, 1] >= len(order) / 4
    assert abs(sum(image < num for image in again) - len(again) / 2) <= 0.5
    if num == 60:
        early = [image < num for image, _ in order[: len(order) // 2]]
        assert 0.3 < np.mean(early) < 0.7 and order != sorted(order)


def test_every_group_weighs_the_same_in_the_class_prior() -> None:
    def records(group: str, labels: list[int]) -> list[ImageRecord]:
        return [ImageRecord(f"{group}{n}", Path("x"), label, group, "test") for n, label in enumerate(labels)]

    stack, single, mixed = records("a", [0] * 7), records("b", [1]), records("c", [0, 0, 0, 1])
    assert class_prior([*stack, *single], 3) == [1_000_000, 1_000_000, 0]
    assert class_prior([*stack, *single, *mixed], 2) == [1_750_000, 1_250_000]


def test_groups_give_one_image_each_while_they_last() -> None:
    records = [ImageRecord(f"{g}_{i}", Path("x"), g % 2, f"g{g}", "test") for g in range(8) for i in range(3)]
    used: Counter[str] = Counter()
    rng = np.random.default_rng(0)
    chosen = choose_by_group(records, [3, 2], used, rng=rng)
    assert sorted(records[p].label for p in chosen) == [0, 0, 0, 1, 1] and max(used.values()) == 1
    choose_by_group([r for p, r in enumerate(records) if p not in chosen], [1, 2], used, rng=rng)
    assert max(used.values()) == 1 and len(used) == 8
    choose_by_group(records, [4, 0], used, rng=rng)
    assert sorted(used.values()) == [1] * 4 + [2] * 4


def test_a_study_from_pack_to_numbers(
    workspace: Workspace, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_pack(workspace, synthetic, tmp_path / "pack", "--readers", "A", "B", "--seed", "2", "--repeats", "0.2")
    page, key = read_page(tmp_path / "pack"), read_key_file(tmp_path / "pack")
    files = []
    for reader in page["readers"]:
        answers = [{"item": item["item"], "confidence": 6 if item["arm"] == "synthetic" else 2, "grade": item["label"],
                    "defects": [0], "seconds": 3.5} for item in key["items"]]
        files.append(tmp_path / f"{reader}.json")
        files[-1].write_text(json.dumps({"schema": 1, "pack_sha256": page["pack_sha256"], "key_sha256": page["key_sha256"],
                                         "reader": reader, "complete": True, "answers": answers}), encoding="utf-8")
    arguments = ["score", "--key", str(tmp_path / "pack_key/key.json"), "--answers", *map(str, files), "--output",
                 str(tmp_path / "scored"), "--commitment", page["key_sha256"], "--bootstrap-repeats", "100"]
    capsys.readouterr()
    reader_study.main(arguments)
    shown = capsys.readouterr().out
    assert re.search(r"AUC of confidence +total +1\.000 +1\.000 +1\.000", shown)
    assert "AUC 1 in every draw" in shown
    rows = json.loads((tmp_path / "scored/reader_study.json").read_text(encoding="utf-8"))["rows"]
    assert {row["value"] for row in rows if row["metric"] == "grade, kappa with the label"} == {1.0}
    with pytest.raises(UserError, match="--bootstrap-repeats: expected 100 or more, found 5"):
        reader_study.main([*arguments[:-1], "5"])


def test_a_pack_of_the_test_set_counts_as_an_opening(
    workspace: Workspace, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = f"dataset_params.directory_inception_features={tmp_path / 'features'}"
    run_pack(workspace, synthetic, tmp_path / "first", overrides=(features,))
    run_pack(workspace, synthetic, tmp_path / "again", overrides=(features,))
    assert capsys.readouterr().out.count("opening 1 of this test set") == 2
    shutil.copytree(synthetic, tmp_path / "fewer")
    next((tmp_path / "fewer" / CLASS_NAMES[0]).iterdir()).unlink()
    run_pack(workspace, tmp_path / "fewer", tmp_path / "second", overrides=(features,))
    assert "opening 2 of this test set" in capsys.readouterr().out
    run_pack(workspace, synthetic, tmp_path / "val", overrides=(features, "evaluation_params.real_split=val"))
    assert "of this test set" not in capsys.readouterr().out


def test_notes_say_what_may_give_images_away(
    workspace: Workspace, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_pack(workspace, synthetic, tmp_path / "larger", overrides=("dataset_params.params.image_size=48",))
    shown = capsys.readouterr().out
    assert "note: synthetic images of 32 x 32 px are resized to 48" in shown
    assert re.search(r"note: \d of \d groups give more than one image", shown)
    run_pack(workspace, synthetic, tmp_path / "alone", "--num-real", "3", "--num-synthetic", "3", overrides=(
        "dataset_params.params.group_column=null",))
    assert capsys.readouterr().out.count("note: ") == 1  # no group_column
    assert read_key_file(tmp_path / "alone")["provenance"]["notes"] == [
        "no group_column is set, so several images may show one patient"]


def test_what_a_pack_refuses(workspace: Workspace, synthetic: Path, tmp_path: Path, pack: Path) -> None:
    def refuse(message: str, *words: str, folder: Path = synthetic, overrides: tuple[str, ...] = (),
               output: Path = tmp_path / "out") -> None:
        with pytest.raises(UserError, match=message):
            run_pack(workspace, folder, output, *words, overrides=overrides)
        assert output == pack or not output.exists()

    refuse("--num-real 900: expected enough images of each class .* found too few in the test split",
           "--num-real", "900", "--num-synthetic", "5")
    refuse("--num-synthetic 900: .* found too few in --synthetic", "--num-real", "5", "--num-synthetic", "900")
    refuse("--num-round-trip 30: .* found too few in the test split", "--num-round-trip", "30")
    refuse("--num-real: expected 1 or more, found 0", "--num-real", "0", "--num-synthetic", "5")
    refuse("--repeats: expected a fraction from 0 to 0.5, found 0.8", "--repeats", "0.8")
    refuse("--task: expected one of realism, outcome, both, found 'beauty'", "--task", "beauty")
    refuse("--readers: expected different names", "--readers", "A", "A")
    refuse("--defect: expected different names without spaces around them, found ' x'", "--defect", " x")
    refuse("expected a new or empty folder, found files there", output=pack)
    refuse("expected a folder outside the pack", "--key", str(tmp_path / "out/key"))
    refuse("expected a folder outside the pack", "--key", str(tmp_path / "OUT/key"))  # one folder on many a laptop
    refuse("expected manifest.csv, or one folder per class", folder=tmp_path)
    copies = tmp_path / "copies"
    for name in CLASS_NAMES:
        (copies / name).mkdir(parents=True)
        (copies / name / "x.png").write_bytes((workspace.phantoms / "images/phantom_000000.png").read_bytes())
    refuse("expected synthetic images, found 2 that are real images of this data set", folder=copies)
    for name in CLASS_NAMES:
        for place in ("x", *range(11)):
            Image.new("L", (32, 32), 7).save(copies / name / f"{place}.png")
    refuse("expected different images, found equal pixels", folder=copies)


def test_size_prints_a_line_for_each_number_of_readers_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    reader_study.main(["size", "--auc", "0.7", "--width", "0.25", "--readers", "1", "2", "6"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "6"]
    assert "not with 1000" in lines[3] and "Obuchowski-Rockette" in lines[5]
    for words, message in ((["--auc", "0.7"], "expected --width, --power or both"),
                           (["--auc", "0.4", "--width", "0.2"], "--auc: expected a number above 0.5"),
                           (["--power", "1.5"], "--power: expected a number above 0.05"),
                           (["--width", "0.2", "--correlation", "1"], "--correlation: expected"),
                           (["--width", "0.2", "--readers", "0"], "--readers: expected 1 or more")):
        with pytest.raises(UserError, match=message):
            reader_study.main(["size", *words])
