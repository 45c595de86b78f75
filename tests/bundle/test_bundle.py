"""A bundle is verified, mended and kept to its platform; make installs from it and from nothing else."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from file_server import serve
from test_wheels import Shelf
from tiny_wheels import write_wheel

from config.errors import UserError
from dataset.storage import hash_file
from models.autoencoder import hash_autoencoder, load_codec
from tools.bundle import __main__ as command
from tools.bundle import bundle
from tools.bundle.bundle import BundleRequest, build_bundle
from tools.bundle.wheels import Target
from tools.evaluation.encoders.downloads import SOURCES
from tools.evaluation.encoders.trunks import NETS
from tools.evaluation.lpips_distance import load_perceptual

ROOT = Path(__file__).parents[2]
VAE = ROOT / "models/pretrained/phantom_vae"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    write_wheel(tmp_path / "shelf", "tinytop", "1.0", requires=["tinypart>=1"])
    write_wheel(tmp_path / "shelf", "tinypart", "1.0")
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def request_(tmp_path: Path) -> BundleRequest:
    (tmp_path / "requirements.txt").write_text("tinytop\n", encoding="utf-8")
    (tmp_path / "constraints.txt").write_text("tinytop==1.0\n", encoding="utf-8")
    return BundleRequest(output=tmp_path / "bundle", target=Target("linux_x86_64", "3.11"),
                         requirements=tmp_path / "requirements.txt", constraints=tmp_path / "constraints.txt", vae=str(VAE))


@pytest.fixture(scope="module")
def lpips_trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trunk of LPIPS' shape with weights of no meaning."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("trunk") / "trunk.pth"
    torch.save(NETS["squeeze"].build().state_dict(), path)
    return path


def refuse_to_fetch(*_: object) -> None:
    raise AssertionError("nothing should be fetched")


def test_the_record_names_every_file_and_a_second_run_fetches_nothing(
    request_: BundleRequest, shelf: Shelf, lpips_trunk: Path
) -> None:
    output = request_.output
    record = build_bundle(replace(request_, lpips=str(lpips_trunk)), fetch=shelf.fetch)
    assert record == json.loads((output / "bundle.json").read_text(encoding="utf-8"))
    held = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert held - {"bundle.json", "SHA256SUMS"} == set(record["files"]) == {
        "wheels/tinytop-1.0-py3-none-any.whl", "wheels/tinypart-1.0-py3-none-any.whl", "weights/vae/config.json",
        "weights/vae/diffusion_pytorch_model.safetensors", "weights/lpips/squeezenet1_1.pth",
        "weights/lpips/lpips_v0.1_squeeze.pth"}
    for name, entry in record["files"].items():
        assert entry == {"bytes": (output / name).stat().st_size, "sha256": hash_file(output / name)}
    assert str(ROOT) not in (output / "bundle.json").read_text(encoding="utf-8")
    assert build_bundle(replace(request_, vae=None), fetch=refuse_to_fetch) == record
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=output, check=True)


def test_its_config_keys_name_weights_that_load(request_: BundleRequest, shelf: Shelf, lpips_trunk: Path) -> None:
    keys = build_bundle(replace(request_, lpips=str(lpips_trunk)), fetch=shelf.fetch)["config_keys"]
    assert set(keys) == {"autoencoder_params.pretrained", "dataset_params.lpips_path", "evaluation_params.squeezenet_path"}
    load_codec(request_.output / keys["autoencoder_params.pretrained"], im_channels=1)
    load_perceptual(request_.output / keys["dataset_params.lpips_path"])
    assert (request_.output / keys["evaluation_params.squeezenet_path"]).is_file()


def test_the_lpips_weights_are_fetched_and_verified_once(
    request_: BundleRequest, shelf: Shelf, lpips_trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.setattr(bundle, "SOURCES", {"squeeze": replace(SOURCES["squeeze"], sha256=hash_file(lpips_trunk)[:8])})
    with serve(lpips_trunk.read_bytes()) as server:
        with pytest.raises(UserError, match=r"--lpips http://127\.0\.0\.1.*could not be downloaded \(cut off: "):
            build_bundle(replace(request_, lpips=server.address("cut")), fetch=shelf.fetch)
        fetched = replace(request_, lpips=server.address("whole"))
        record = build_bundle(fetched, fetch=shelf.fetch)
        assert build_bundle(fetched, fetch=refuse_to_fetch) == record and len(server.asked) == 2
    load_perceptual(request_.output / record["config_keys"]["dataset_params.lpips_path"])


def test_a_vae_in_shards_is_taken_whole_and_leaves_nothing_to_the_next(
    request_: BundleRequest, shelf: Shelf, tmp_path: Path
) -> None:
    AutoencoderKL.from_pretrained(VAE).save_pretrained(tmp_path / "shards", max_shard_size="500KB")
    folder, wanted = request_.output / "weights/vae", {path.name for path in (tmp_path / "shards").iterdir()}
    assert len(wanted) > 3
    build_bundle(request_, fetch=shelf.fetch)
    record = build_bundle(replace(request_, vae=str(tmp_path / "shards")), fetch=shelf.fetch)
    assert {path.name for path in folder.iterdir()} == wanted
    assert {f"weights/vae/{name}" for name in wanted} < set(record["files"])
    assert hash_autoencoder(folder) == hash_autoencoder(tmp_path / "shards")
    build_bundle(request_, fetch=shelf.fetch)
    assert hash_autoencoder(folder) == hash_autoencoder(VAE)  # an index left behind would go before the plain file


def test_lpips_weights_of_another_network_take_the_place_of_the_first(
    request_: BundleRequest, shelf: Shelf, lpips_trunk: Path, tmp_path: Path
) -> None:
    build_bundle(replace(request_, lpips=str(lpips_trunk)), fetch=shelf.fetch)
    torch.save(NETS["alex"].build().state_dict(), tmp_path / "alex.pth")
    keys = build_bundle(replace(request_, lpips=str(tmp_path / "alex.pth")), fetch=shelf.fetch)["config_keys"]
    folder = request_.output / keys["dataset_params.lpips_path"]
    assert {path.name for path in folder.iterdir()} == {"alexnet.pth", "lpips_v0.1_alex.pth"}
    assert load_perceptual(folder).net == "alex" and "evaluation_params.squeezenet_path" not in keys


def test_damaged_files_are_named_and_fetched_again(
    request_: BundleRequest, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    record = build_bundle(request_, fetch=shelf.fetch)
    wheel, weights = request_.output / "wheels/tinypart-1.0-py3-none-any.whl", request_.output / "weights/vae/config.json"
    wheel.write_bytes(wheel.read_bytes()[:100])
    weights.write_text("{}", encoding="utf-8")
    shelf.asked.clear()
    assert build_bundle(request_, fetch=shelf.fetch) == record
    assert shelf.asked == ["tinypart>=1"]
    told = capsys.readouterr().out
    assert "tinypart-1.0-py3-none-any.whl is missing or damaged" in told and "config.json is missing or damaged" in told
    weights.unlink()
    with pytest.raises(UserError, match=r"weights/vae/config\.json: missing or damaged.*give --vae again"):
        build_bundle(replace(request_, vae=None), fetch=shelf.fetch)


def test_a_stopped_run_goes_on(request_: BundleRequest, shelf: Shelf) -> None:
    def stop_after_the_first(needs: object, folder: Path) -> None:
        if shelf.asked:
            raise KeyboardInterrupt
        shelf.fetch(needs, folder)

    with pytest.raises(KeyboardInterrupt):
        build_bundle(request_, fetch=stop_after_the_first)
    assert json.loads((request_.output / "bundle.json").read_text(encoding="utf-8"))["complete"] is False
    shelf.asked.clear()
    assert build_bundle(request_, fetch=shelf.fetch)["complete"] is True
    assert shelf.asked == ["tinypart>=1"]


def test_another_platform_a_foreign_folder_and_wrong_weights_are_refused(
    request_: BundleRequest, shelf: Shelf, tmp_path: Path
) -> None:
    build_bundle(request_, fetch=shelf.fetch)
    with pytest.raises(UserError, match=r"holds a bundle for platform linux_x86_64, not macos_arm64; python 3\.11, not"):
        build_bundle(replace(request_, target=Target("macos_arm64", "3.12")), fetch=shelf.fetch)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/x").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="expected an empty folder or a bundle, found other files"):
        build_bundle(replace(request_, output=tmp_path / "foreign"), fetch=shelf.fetch)
    with pytest.raises(UserError, match="expected a folder, found a file"):
        build_bundle(replace(request_, output=tmp_path / "foreign/x"), fetch=shelf.fetch)
    for source in (str(tmp_path / "foreign/x"), (tmp_path / "foreign/x").as_uri()):
        with pytest.raises(UserError, match=r"expected the official weights pt_inception-2015-12-05-6726825d\.pth"):
            build_bundle(replace(request_, inception=source), fetch=shelf.fetch)
    with pytest.raises(UserError, match="found nothing there"):
        build_bundle(replace(request_, inception=str(tmp_path / "absent")), fetch=shelf.fetch)
    with pytest.raises(UserError, match="could not be downloaded"):
        build_bundle(replace(request_, inception=(tmp_path / "absent").as_uri()), fetch=shelf.fetch)


def test_a_dinov2_folder_is_copied_whole_or_refused(request_: BundleRequest, shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "dino").mkdir()
    (tmp_path / "dino/config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"--dinov2 .*has no model\.safetensors"):
        build_bundle(replace(request_, dinov2=tmp_path / "dino"), fetch=shelf.fetch)
    (tmp_path / "dino/model.safetensors").write_bytes(b"weights")
    record = build_bundle(replace(request_, dinov2=tmp_path / "dino", output=tmp_path / "other"), fetch=shelf.fetch)
    assert record["config_keys"]["evaluation_params.dinov2_path"] == "weights/dinov2"
    assert (tmp_path / "other/weights/dinov2/model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize(("words", "match"), [
    (("--platform", "macos_arm64", "--cpu"), "torch for macos_arm64 is the CPU build already"),
    (("--platform", "linux_x86_64", "--python-version", "2.7"), r"expected a version such as 3\.11, found '2\.7'"),
])
def test_arguments_that_cannot_be_served_are_refused(tmp_path: Path, words: tuple[str, ...], match: str) -> None:
    with pytest.raises(UserError, match=match):
        command.main(["--output", str(tmp_path / "bundle"), *words])


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
def test_make_installs_from_the_bundle_and_from_nothing_else(tmp_path: Path, shelf: Shelf) -> None:
    """A newer wheel that this machine's pip is configured to find is passed over; one missing in the bundle is an error."""
    project, bundle = tmp_path / "project", tmp_path / "bundle"
    project.mkdir()
    shutil.copy(ROOT / "Makefile", project)
    (project / "requirements.txt").write_text("tinytop\n", encoding="utf-8")
    (project / "requirements-dev.txt").write_text("-r requirements.txt\n", encoding="utf-8")
    (project / "constraints.txt").write_text("", encoding="utf-8")
    shutil.copytree(shelf.folder, bundle / "wheels")
    write_wheel(tmp_path / "elsewhere", "tinypart", "2.0")
    (tmp_path / "pip.conf").write_text(f"[global]\nfind-links = {tmp_path / 'elsewhere'}\n", encoding="utf-8")
    environment = {**os.environ, "PIP_FIND_LINKS": str(tmp_path / "elsewhere"),
                   "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    words = ["make", ".venv/.installed", f"PYTHON={sys.executable}", f"BUNDLE={bundle}"]
    done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = subprocess.run([project / ".venv/bin/python", "-c", "import tinytop, tinypart; print(tinypart.version)"],
                          capture_output=True, text=True, check=True)
    assert told.stdout == "1.0\n"
    next((bundle / "wheels").glob("tinypart*")).unlink()
    (project / "requirements.txt").write_text("tinypart>=2\n", encoding="utf-8")
    done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "No matching distribution found for tinypart>=2" in done.stderr
