"""Collect wheels and weights for a machine without a network; run it again to verify them and resume where it stopped."""

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from config.errors import UserError
from config.paths import as_path, expand_path
from tools.bundle.bundle import TORCH_CPU_INDEX, BundleRequest, build_bundle
from tools.bundle.wheels import PLATFORMS, Target
from tools.evaluation.encoders.downloads import SOURCES
from tools.runtime.command import run_command

_ROOT = Path(__file__).parents[2]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bundle", description=__doc__)
    parser.add_argument("--output", required=True, type=as_path, metavar="DIR", help="folder of the bundle")
    parser.add_argument("--platform", choices=tuple(PLATFORMS), help="the target machine; default: as this one")
    parser.add_argument("--python-version", default=f"{sys.version_info.major}.{sys.version_info.minor}", metavar="V",
                        help="its Python; default %(default)s, as on this machine")
    parser.add_argument("--vae", type=expand_path, metavar="PATH_OR_HUB_ID",
                        help="pretrained VAE: a diffusers folder or a hub id")
    parser.add_argument("--inception", type=expand_path, nargs="?", const=SOURCES["inception"].address,
                        metavar="PATH_OR_URL",
                        help="official Inception weights; without a value, from their published address")
    parser.add_argument("--lpips", type=expand_path, nargs="?", const=SOURCES["squeeze"].address, metavar="PATH_OR_URL",
                        help="LPIPS trunk, or folder of trunk and linear head; without a value, from its published address")
    parser.add_argument("--dinov2", type=as_path, metavar="PATH", help="folder of a DINOv2 model in transformers' format")
    parser.add_argument("--cpu", nargs="?", const=TORCH_CPU_INDEX, metavar="INDEX",
                        help="torch without CUDA, for Linux, from PyTorch's index or this one")
    parser.add_argument("--requirements", type=as_path, default=_ROOT / "requirements-dev.txt", metavar="FILE",
                        help="default requirements-dev.txt; requirements.txt leaves out what only tests need")
    arguments = parser.parse_args(argv)
    name = arguments.platform or _this_platform()
    if arguments.cpu is not None and PLATFORMS[name].system != "Linux":
        raise UserError(f"--cpu: torch for {name} is the CPU build already; leave --cpu out")
    record = build_bundle(BundleRequest(
        output=arguments.output, target=Target(name, _check_python(arguments.python_version)),
        requirements=arguments.requirements, constraints=_ROOT / "constraints.txt", torch_index=arguments.cpu,
        vae=arguments.vae, inception=arguments.inception, lpips=arguments.lpips,
        dinov2=arguments.dinov2,
    ))
    size = sum(entry["bytes"] for entry in record["files"].values())
    print(f"{len(record['files'])} files, {size / 1e9:.2f} GB, in {arguments.output}, each with its sha256 in bundle.json, "
          f"for {record['platform']} and Python {record['python']}")
    print(f"there: make demo BUNDLE={arguments.output.name}")
    for key, path in record["config_keys"].items():
        print(f"       --set {key}={arguments.output.name}/{path}")


def _this_platform() -> str:
    for name, candidate in PLATFORMS.items():
        if (candidate.system, candidate.machine) == (platform.system(), platform.machine()):
            return name
    raise UserError(f"--platform: expected one of {', '.join(PLATFORMS)}; this machine is {platform.system()} "
                    f"{platform.machine()}, so name the target platform")


def _check_python(text: str) -> str:
    major, _, minor = text.partition(".")
    if major != "3" or not minor.isdigit():
        raise UserError(f"--python-version: expected a version such as 3.11, found {text!r}")
    return text


if __name__ == "__main__":
    run_command(main, on_device=False)
