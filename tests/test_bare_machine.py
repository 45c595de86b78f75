"""What a machine without libGL, X11 and GLib needs: no library of the system that a slim container lacks.

`.ci/bare_root` runs the demo and the tests in such a root; this holds the same by what OpenCV's libraries link to.
"""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ABSENT = re.compile(r"^\s*(lib(?:GL|EGL|X\w*|xcb\w*|glib|gthread|SM|ICE)[-.]\S*)", re.MULTILINE)  # in a slim image


def find_absent(library: Path) -> list[str]:
    """What the library or its own dependencies load that a slim image lacks."""
    listed = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    own = [line for line in listed.splitlines() if "site-packages" not in line]  # a wheel brings those along
    return ABSENT.findall("\n".join(own))


def test_opencv_loads_nothing_that_a_slim_image_lacks() -> None:
    if shutil.which("ldd") is None:
        pytest.skip("ldd is not on this machine")
    spec = importlib.util.find_spec("cv2")
    assert spec is not None and spec.submodule_search_locations
    libraries = [path for folder in spec.submodule_search_locations for path in Path(folder).glob("*.so")]
    assert libraries
    assert {path.name: find_absent(path) for path in libraries} == {path.name: [] for path in libraries}


def test_absent_libraries_are_recognised() -> None:
    listed = "\n".join(f"\t{name} => somewhere" for name in
                       ("libxcb.so.1", "libGL.so.1", "libglib-2.0.so.0", "libz.so.1", "libm.so.6", "libglobal.so"))
    assert ABSENT.findall(listed) == ["libxcb.so.1", "libGL.so.1", "libglib-2.0.so.0"]


@pytest.mark.parametrize("name", ["requirements.txt", "constraints.txt"])
def test_only_the_headless_build_of_opencv_is_installed(name: str) -> None:
    wanted = re.findall(r"^opencv[\w-]*", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert wanted == ["opencv-python-headless"]
