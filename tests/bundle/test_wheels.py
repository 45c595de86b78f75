"""Requirements are followed to their end under the target's markers; pip is asked only for what is missing."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny_wheels import write_wheel

from config.errors import UserError
from tools.bundle.wheels import PLATFORMS, Target, collect_wheels, pip_fetch, read_requirements

LINUX = Target("linux_x86_64", "3.11")


class Shelf:
    """A folder of wheels that serves as the package index, and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []

    def fetch(self, needs: Sequence[Requirement], folder: Path) -> None:
        for need in needs:
            self.asked.append(str(need))
            fitting = [path for path in self.folder.glob("*.whl") if need.specifier.contains(path.name.split("-")[1])
                       and canonicalize_name(path.name.split("-")[0]) == need.name]
            if fitting:
                shutil.copy(max(fitting), folder)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    folder = tmp_path / "shelf"
    write_wheel(folder, "top", "1.0", requires=[
        "linux_part; platform_system == 'Linux'", "windows_part; sys_platform == 'win32'",
        "old_part; python_version < '3.11'", "deep[more]>=2",
        "arm_part; platform_machine == 'aarch64' or platform_machine == 'arm64'"])
    write_wheel(folder, "deep", "2.0", requires=["extra_part; extra == \"more\"", "unasked; extra == \"never\"", "top"])
    write_wheel(folder, "deep", "1.0")
    for name in ("linux_part", "windows_part", "old_part", "extra_part", "unasked", "arm_part"):
        write_wheel(folder, name, "1.0")
    return Shelf(folder)


def collect(
    shelf: Shelf, tmp_path: Path, *requirements: str, target: Target = LINUX, pins: tuple[str, ...] = ()
) -> set[str]:
    found = collect_wheels(tmp_path / "wheels", [Requirement(text) for text in requirements],
                           pins=[Requirement(text) for text in pins], target=target, fetch=shelf.fetch)
    assert sorted((tmp_path / "wheels").iterdir()) == found
    return {"-".join(path.name.split("-")[:2]) for path in found}


@pytest.mark.parametrize(("target", "others"), [
    (LINUX, {"linux_part-1.0"}),
    (Target("linux_aarch64", "3.10"), {"linux_part-1.0", "arm_part-1.0", "old_part-1.0"}),
    (Target("macos_arm64", "3.13"), {"arm_part-1.0"}),
])
def test_markers_are_those_of_the_target(shelf: Shelf, tmp_path: Path, target: Target, others: set[str]) -> None:
    assert collect(shelf, tmp_path, "top", target=target) == {"top-1.0", "deep-2.0", "extra_part-1.0"} | others


def test_a_second_run_asks_for_nothing_and_a_stopped_one_for_what_is_missing(shelf: Shelf, tmp_path: Path) -> None:
    first = collect(shelf, tmp_path, "top")
    shelf.asked.clear()
    assert collect(shelf, tmp_path, "top") == first and shelf.asked == []
    (tmp_path / "wheels/deep-2.0-py3-none-any.whl").unlink()
    assert collect(shelf, tmp_path, "top") == first and shelf.asked == ["deep[more]>=2"]


def test_wheels_that_are_no_longer_wanted_go(shelf: Shelf, tmp_path: Path) -> None:
    collect(shelf, tmp_path, "top")
    assert collect(shelf, tmp_path, "linux_part") == {"linux_part-1.0"}


def test_pins_hold_and_a_contradiction_is_named(shelf: Shelf, tmp_path: Path) -> None:
    assert collect(shelf, tmp_path, "deep", pins=("deep==1.0",)) == {"deep-1.0"}
    with pytest.raises(UserError, match=r"pip found no wheel for deep\[more\]==1.0,>=2; .*constraints\.txt pins one"):
        collect(shelf, tmp_path, "top", pins=("deep==1.0",))
    with pytest.raises(UserError, match="pip found no wheel for absent"):
        collect(shelf, tmp_path, "absent")


def test_requirement_files_are_read_with_those_they_name(tmp_path: Path) -> None:
    (tmp_path / "dev.txt").write_text("-r base.txt\n# a comment\npytest>=8  # checks\n", encoding="utf-8")
    (tmp_path / "base.txt").write_text("torch>=2.11\n\n", encoding="utf-8")
    assert [str(need) for need in read_requirements(tmp_path / "dev.txt")] == ["torch>=2.11", "pytest>=8"]
    (tmp_path / "base.txt").write_text("--hash wrong", encoding="utf-8")
    with pytest.raises(UserError, match=r"base\.txt: expected lines such as name>=1\.0, found '--hash wrong'"):
        read_requirements(tmp_path / "dev.txt")
    (tmp_path / "base.txt").unlink()
    with pytest.raises(UserError, match=r"base\.txt: expected a file of requirements, could not read it"):
        read_requirements(tmp_path / "dev.txt")


def test_our_own_requirements_can_be_read() -> None:
    root = Path(__file__).parents[2]
    names = {need.name for need in read_requirements(root / "requirements-dev.txt")}
    assert {"torch", "diffusers", "pytest", "packaging"} <= names
    assert all(len(need.specifier) == 1 for need in read_requirements(root / "constraints.txt"))


@pytest.fixture
def only_shelf(monkeypatch: pytest.MonkeyPatch, shelf: Shelf) -> Shelf:
    """pip told, as a machine's settings would, that the shelf is all there is."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf.folder))
    return shelf


def test_pip_fetches_for_the_target_and_not_for_this_machine(only_shelf: Shelf, tmp_path: Path) -> None:
    for tag in (*(f"cp311-cp311-{PLATFORMS[name].tags[-1]}" for name in PLATFORMS), "cp310-cp310-win_amd64"):
        write_wheel(only_shelf.folder, "built", "1.0", tag=tag)
    for name, platform in PLATFORMS.items():
        target = Target(name, "3.11")
        (wheel,) = collect_wheels(tmp_path / name, [Requirement("built")], pins=[], target=target, fetch=pip_fetch(target))
        assert wheel.name == f"built-1.0-cp311-cp311-{platform.tags[-1]}.whl"


def test_what_pip_cannot_fetch_is_one_line_and_leaves_no_half_wheel(only_shelf: Shelf, tmp_path: Path) -> None:
    write_wheel(only_shelf.folder, "built", "1.0", tag="cp310-cp310-win_amd64")
    with pytest.raises(UserError, match=r"pip could not download built \(.*No matching distribution.*\); fix this"):
        collect_wheels(tmp_path / "wheels", [Requirement("built")], pins=[], target=LINUX, fetch=pip_fetch(LINUX))
    assert list((tmp_path / "wheels").iterdir()) == []


def test_torch_comes_from_an_index_of_its_own_where_one_is_given(
    only_shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "nothing").as_uri())
    write_wheel(only_shelf.folder, "other", "1.0")
    wheel = write_wheel(tmp_path / "index/torch", "torch", "2.0+cpu")
    (wheel.parent / "index.html").write_text(f'<!doctype html><a href="{wheel.name}">{wheel.name}</a>', encoding="utf-8")
    needs = [Requirement("torch"), Requirement("other")]
    found = collect_wheels(tmp_path / "wheels", needs, pins=[Requirement("torch==2.0")], target=LINUX,
                           fetch=pip_fetch(LINUX, torch_index=(tmp_path / "index").as_uri()))
    assert [path.name for path in found] == ["other-1.0-py3-none-any.whl", "torch-2.0+cpu-py3-none-any.whl"]
