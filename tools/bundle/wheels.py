"""Wheels for a given platform and Python: resolve all requirements here, and let pip download single wheels.

pip can download for another platform, but decides by the running machine which requirements apply there. So this module
resolves the requirements under the target's markers, and asks pip only for single wheels.
"""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

from config.errors import UserError

_GLIBC = (5, 28)  # manylinux_2_5 to manylinux_2_28: the target needs glibc 2.28 (2018) or later
_MACOS = (11, 15)
_INCOMING = ".incoming"

Fetch = Callable[[Sequence[Requirement], Path], None]  # what is wanted, and the folder for the wheels


@dataclass(frozen=True)
class Platform:
    """A kind of machine: pip's platform names for it, best first, and how Python describes it to requirements."""

    tags: tuple[str, ...]
    system: str
    sys_platform: str
    machine: str


def _linux(machine: str) -> Platform:
    older = ("manylinux2014", "manylinux2010", "manylinux1")
    numbered = [f"manylinux_2_{minor}" for minor in range(_GLIBC[1], _GLIBC[0] - 1, -1)]
    return Platform(tuple(f"{name}_{machine}" for name in (*numbered, *older)), "Linux", "linux", machine)


_MACOS_TAGS = (
    *(f"macosx_{major}_0_{kind}" for major in range(_MACOS[1], _MACOS[0] - 1, -1) for kind in ("arm64", "universal2")),
    "macosx_10_13_universal2", "macosx_10_9_universal2",
)
PLATFORMS: Mapping[str, Platform] = {
    "linux_x86_64": _linux("x86_64"),
    "linux_aarch64": _linux("aarch64"),
    "macos_arm64": Platform(_MACOS_TAGS, "Darwin", "darwin", "arm64"),
}


@dataclass(frozen=True)
class Target:
    """A platform of PLATFORMS and a CPython such as "3.11"."""

    platform: str
    python: str

    def pip_options(self) -> list[str]:
        """The options with which pip downloads for this machine."""
        tags = [word for tag in PLATFORMS[self.platform].tags for word in ("--platform", tag)]
        return [*tags, "--python-version", self.python, "--implementation", "cp"]

    def markers(self) -> dict[str, str]:
        """The environment for evaluating markers of requirements. Source: PEP 508."""
        platform = PLATFORMS[self.platform]
        return {
            "python_version": self.python, "python_full_version": f"{self.python}.0", "os_name": "posix",
            "sys_platform": platform.sys_platform, "platform_system": platform.system,
            "platform_machine": platform.machine, "platform_python_implementation": "CPython",
            "implementation_name": "cpython", "implementation_version": f"{self.python}.0", "platform_release": "",
            "platform_version": "",
        }


def read_requirements(path: Path) -> list[Requirement]:
    """The lines of a requirements file and of those it names by -r.

    Raises:
        UserError: no such file, or a line that is not a requirement.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: expected a file of requirements, could not read it ({error.strerror})") from error
    found: list[Requirement] = []
    for line in lines:
        text = line.partition("#")[0].strip()
        if text.startswith("-r"):
            found += read_requirements(path.parent / text.removeprefix("-r").strip())
        elif text:
            try:
                found.append(Requirement(text))
            except InvalidRequirement as error:
                raise UserError(f"{path}: expected lines such as name>=1.0, found {text!r}; correct it") from error
    return found


def collect_wheels(
    folder: Path, requirements: Sequence[Requirement], *, pins: Sequence[Requirement], target: Target, fetch: Fetch,
) -> list[Path]:
    """Fill `folder` with the wheels of `requirements` and of everything that these require on the target, and no others.

    Fitting wheels are kept, so that a stopped run resumes and a finished one downloads nothing.

    Raises:
        UserError: a wheel is not available, or requirements contradict each other.
    """
    pinned = {canonicalize_name(pin.name): pin.specifier for pin in pins}
    environment = target.markers()
    wanted: dict[str, Requirement] = {}

    def want(requirement: Requirement) -> bool:
        """Note a requirement; whether it asks for more than those noted before."""
        name = canonicalize_name(requirement.name)
        if requirement.url:
            raise UserError(f"{requirement}: expected a requirement that a package index serves, found an address")
        before = wanted.get(name)
        merged = Requirement(name)
        merged.specifier = requirement.specifier & (before.specifier if before else pinned.get(name, SpecifierSet()))
        merged.extras = requirement.extras | (before.extras if before else set())
        wanted[name] = merged
        return before is None or merged != before

    for requirement in requirements:
        if _applies(requirement, environment, ()):
            want(requirement)
    chosen: dict[str, Path] = {}
    grown = True
    while grown:
        missing = [need for need in wanted.values() if find_wheel(folder, need) is None]
        if missing:
            _fetch_into(folder, missing, fetch)
        chosen = {name: _require_wheel(folder, need) for name, need in wanted.items()}
        grown = False
        for name, wheel in chosen.items():
            for requirement in read_wheel_requirements(wheel):
                if _applies(requirement, environment, wanted[name].extras) and want(requirement):
                    grown = True
    for path in set(folder.glob("*.whl")) - set(chosen.values()):
        path.unlink()
    return sorted(chosen.values())


def pip_fetch(target: Target, *, torch_index: str | None = None) -> Fetch:
    """A fetch with pip and this machine's pip settings; torch and torchvision come from a separate index."""
    def fetch(requirements: Sequence[Requirement], folder: Path) -> None:
        of_torch = [need for need in requirements if torch_index and need.name in ("torch", "torchvision")]
        others = [need for need in requirements if need not in of_torch]
        for needs, options in ((of_torch, ["--index-url", torch_index or ""]), (others, [])):
            if needs:
                _run_pip([*options, *target.pip_options()], needs, folder)
    return fetch


def find_wheel(folder: Path, need: Requirement) -> Path | None:
    """The newest wheel in `folder` that satisfies a requirement."""
    found = []
    for path in folder.glob("*.whl"):
        name, version, *_ = parse_wheel_filename(path.name)
        if name == canonicalize_name(need.name) and need.specifier.contains(version, prereleases=True):
            found.append((version, path))
    return max(found)[1] if found else None


def read_wheel_requirements(path: Path) -> Iterator[Requirement]:
    """The requirements in a wheel, with their markers."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(item for item in archive.namelist()
                        if item.endswith(".dist-info/METADATA") and item.count("/") == 1)
            text = archive.read(name).decode("utf-8")
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise UserError(f"{path}: expected a wheel, could not read it; remove it to download it again") from error
    for line in HeaderParser().parsestr(text).get_all("Requires-Dist") or []:
        yield Requirement(line)


def _applies(requirement: Requirement, environment: Mapping[str, str], extras: Sequence[str] | set[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras))


def _require_wheel(folder: Path, need: Requirement) -> Path:
    path = find_wheel(folder, need)
    if path is None:
        raise UserError(f"{folder}: pip found no wheel for {need}; another package requires another version, or "
                        "constraints.txt pins one")
    return path


def _fetch_into(folder: Path, needs: Sequence[Requirement], fetch: Fetch) -> None:
    """Download to another folder and move complete wheels in, so that a stopped run leaves no incomplete wheel."""
    incoming = folder / _INCOMING
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    try:
        fetch(needs, incoming)
        for path in sorted(incoming.glob("*.whl")):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _run_pip(options: Sequence[str], needs: Sequence[Requirement], folder: Path) -> None:
    names = [f"{need.name}{need.specifier}" for need in needs]  # extras add wheels, they do not change this one
    print(f"downloading {len(names)} wheels: {', '.join(need.name for need in needs)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary",
         ":all:", "--dest", str(folder), *options, *names],
        capture_output=True, text=True, check=False,
    )
    if done.returncode:
        errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UserError(f"pip could not download {', '.join(names)} ({errors[-1] if errors else 'no reason given'}); fix "
                        "this, then run the same command to resume")
