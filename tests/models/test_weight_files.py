"""What is fetched of a hub model: a server on the loopback address stands for the hub, and its cache is the real one."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

from config.errors import UserError
from models.autoencoder import resolve_autoencoder
from models.weight_files import fetch_model, find_weight_files

STEM = "diffusion_pytorch_model"
COMMIT = "0" * 39 + "1"
SHARDS = [f"{STEM}-0000{number}-of-00002.safetensors" for number in (1, 2)]
INDEX = json.dumps({"metadata": {"total_size": 2}, "weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[0]}})
PICKLE = {f"{STEM}.bin": "pickle", f"{STEM}.fp16.bin": "pickle"}
CONFIG = {"config.json": '{"_class_name": "AutoencoderKL"}'}


class Hub:
    """Serves one model, someone/vae, and counts what is taken."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.taken: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, *, body: bool) -> None:
                path = unquote(urlsplit(self.path).path)
                if path == "/api/models/someone/vae/revision/main":
                    return self._send(json.dumps({"id": "someone/vae", "sha": COMMIT, "siblings": []}).encode())
                if path == f"/api/models/someone/vae/tree/{COMMIT}":
                    entries = [{"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                               for name, data in hub.files.items()]
                    return self._send(json.dumps(entries).encode())
                name = path.removeprefix(f"/someone/vae/resolve/{COMMIT}/")
                if name not in hub.files:
                    return self.send_error(404)
                if body:
                    hub.taken.append(name)
                return self._send(hub.files[name], body=body)

            def _send(self, data: bytes, *, body: bool = True) -> None:
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def hold(self, files: dict[str, str], *, below: str = "") -> None:
        self.files |= {f"{below}{name}": content.encode() for name, content in files.items()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    address = f"http://127.0.0.1:{hub.server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        address + "/{repo_id}/resolve/{revision}/{filename}")
    yield hub
    hub.server.shutdown()
    thread.join()
    hub.server.server_close()


HELD_SHARDS = dict(zip(SHARDS, "xy", strict=True))
HALF = f"{STEM}.fp16.safetensors"
LAYOUTS = {  # what the hub holds, what is taken of it, and the variant that it is
    "plain": ({f"{STEM}.safetensors": "x", HALF: "half"}, [f"{STEM}.safetensors"], None),
    "shards": ({f"{STEM}.safetensors.index.json": INDEX, **HELD_SHARDS, HALF: "half"},
               [f"{STEM}.safetensors.index.json", *SHARDS], None),
    "variant": ({HALF: "half", f"{STEM}.non_ema.safetensors": "x"}, [HALF], "fp16"),
    "shards of a variant": ({f"{STEM}.safetensors.index.fp16.json": INDEX, **HELD_SHARDS},
                            [f"{STEM}.safetensors.index.fp16.json", *SHARDS], "fp16"),
}


@pytest.mark.parametrize("subfolder", [None, "vae"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_more_is_fetched_than_is_read(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, layout: str, subfolder: str | None
) -> None:
    held, wanted, variant = LAYOUTS[layout]
    prefix = f"{subfolder}/" if subfolder else ""
    hub.hold({**CONFIG, **PICKLE, **held, "README.md": "text"}, below=prefix)
    folder = resolve_autoencoder("someone/vae", subfolder)
    assert sorted(hub.taken) == sorted(f"{prefix}{name}" for name in ("config.json", *wanted))
    found = find_weight_files(folder, STEM)
    assert found is not None and found.variant == variant and {path.name for path in found.files} == set(wanted)
    hub.taken.clear()
    assert resolve_autoencoder("someone/vae", subfolder) == folder and not hub.taken
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # and from the cache without a network
    assert resolve_autoencoder("someone/vae", subfolder) == folder and not hub.taken


def test_a_hub_model_of_pickles_is_refused_with_the_command_that_converts_it(hub: Hub) -> None:
    hub.hold({**CONFIG, **PICKLE})
    with pytest.raises(UserError, match=r"from_pretrained\('someone/vae'\)\.save_pretrained\('vae'\)") as caught:
        resolve_autoencoder("someone/vae")
    assert hub.taken == ["config.json"] and str(caught.value).isprintable()


def test_a_hub_pipeline_is_told_its_subfolder(hub: Hub) -> None:
    hub.hold({"model_index.json": "{}", "vae/config.json": CONFIG["config.json"], f"vae/{STEM}.safetensors": "x"})
    with pytest.raises(UserError, match=r"a whole pipeline; set autoencoder_params\.subfolder: vae"):
        resolve_autoencoder("someone/vae")
    assert hub.taken == ["model_index.json"]


def test_the_stem_of_transformers_is_another(hub: Hub) -> None:
    hub.hold({**CONFIG, "model.safetensors": "x", "pytorch_model.bin": "pickle", f"{STEM}.safetensors": "y"})
    folder = fetch_model("someone/vae", "model")
    assert sorted(hub.taken) == ["config.json", "model.safetensors"]
    found = find_weight_files(folder, "model")
    assert found is not None and [path.name for path in found.files] == ["model.safetensors"]
