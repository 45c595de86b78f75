"""The whole pipeline in one process that cannot reach a network, at its smallest, for tests that look at what it left."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from workspace import Workspace

REPOSITORY = Path(__file__).parents[2]

# Python imports this module at its start. Local sockets serve wandb's own helper process; every other try is noted, since
# a library may swallow the error, and refused.
_NO_NETWORK = '''
import os
import socket

def note(target):
    with open(os.environ["ATTEMPTS"], "a", encoding="utf-8") as file:
        file.write(f"{target}\\n")
    raise OSError(f"no network in this test: {target}")

def is_local(family, address):
    if family == getattr(socket, "AF_UNIX", None):
        return True
    return str(address[0]).startswith("127.") or address[0] in ("::1", "localhost")

def guarded(name):
    original = getattr(socket.socket, name)
    def call(self, address, *rest):
        if not is_local(self.family, address):
            note(address)
        return original(self, address, *rest)
    return call

for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, guarded(name))

original_getaddrinfo = socket.getaddrinfo
def getaddrinfo(host, *rest, **more):
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        note(host)
    return original_getaddrinfo(host, *rest, **more)
socket.getaddrinfo = getaddrinfo
'''

_PIPELINE = '''
import json, sys
import torch
torch.set_num_threads(1)
import sample_ddpm_class_cond, train_ddpm_cond
from accelerate.state import AcceleratorState, GradientState
from tools import cache_latents, evaluate
from tools.make_phantoms import __main__ as make_phantoms
from tools.train_encoder import __main__ as train_encoder
from tools.train_vae import __main__ as train_vae

arguments, root = json.loads(sys.argv[1]), sys.argv[2]
make_phantoms.main(["--output", f"{root}/phantoms", "--num-images", "200", "--image-size", "32", "--seed", "3"])
train_vae.main([*arguments, "--set", "autoencoder_params.training.max_steps=4"])
for role in ("encoder", "judge"):
    train_encoder.main([*arguments, "--role", role, "--epochs", "2"])
cache_latents.main(arguments)
train_ddpm_cond.main(arguments)
AcceleratorState._reset_state(reset_partial_state=True)
GradientState._reset_state()
sample_ddpm_class_cond.main(arguments)
evaluate.main([*arguments, "--synthetic", f"{root}/runs/reference/samples", "--output", f"{root}/evaluated_again"])
'''


@dataclass(frozen=True)
class OfflineProject:
    """What is left: the workspace, the process's end, and where it tried to connect to."""

    workspace: Workspace
    done: subprocess.CompletedProcess[str]
    attempts: tuple[str, ...]


def run_offline_project(workspace: Workspace) -> OfflineProject:
    """Phantoms, VAE, classifiers, latents, training, samples and evaluation, wandb offline, without a network."""
    root = workspace.root
    (root / "guard").mkdir()
    (root / "guard/sitecustomize.py").write_text(_NO_NETWORK, encoding="utf-8")
    arguments = workspace.arguments("logging_params.wandb_mode=offline", "evaluation_params.max_pairs=20",
                                    "train_params.max_steps=8")
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"PYTHONPATH": os.pathsep.join((str(root / "guard"), str(REPOSITORY))), "OMP_NUM_THREADS": "1",
                    "ATTEMPTS": str(root / "attempts.txt")}
    done = subprocess.run([sys.executable, "-c", _PIPELINE, json.dumps(arguments), str(root)], cwd=root, env=environment,
                          text=True, capture_output=True, timeout=240, check=False)
    attempts = root / "attempts.txt"
    return OfflineProject(workspace, done, tuple(attempts.read_text(encoding="utf-8").split("\n")) if attempts.exists()
                          else ())
