"""Run the checks of this folder, or a script, on a CUDA device that is not there; see `simcuda.py`.

    python tests/device/run.py                                        # what `make test-device` does
    python tests/device/run.py benchmarks/cuda_check.py --quick       # anything else

The guard is compiled once, by the C++ compiler there is. Where there is none it says so, and that is all.
"""

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent


def compiler() -> str | None:
    """Return the C++ compiler: the environment's CXX, or the first of the usual ones."""
    return next(
        (found for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if (found := shutil.which(name))), None
    )


def build(cxx: str, folder: Path) -> None:
    """Compile the guard for this PyTorch and this Python, unless that has been done."""
    torch = Path(find_spec("torch").origin).parent  # not imported: the guard is to be there first
    source, library = HERE / "guard.cpp", folder / f"simguard{sysconfig.get_config_var('EXT_SUFFIX')}"
    if library.exists() and library.stat().st_mtime > max(
        source.stat().st_mtime, (torch / "version.py").stat().st_mtime
    ):
        return
    folder.mkdir(parents=True, exist_ok=True)
    headers = [torch / "include", torch / "include/torch/csrc/api/include", sysconfig.get_paths()["include"]]
    command = [cxx, "-O0", "-std=c++20", "-shared", "-fPIC", str(source), *(f"-I{path}" for path in headers)]
    libraries = [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch / 'lib'}"]
    subprocess.run([*command, *libraries, "-o", str(library)], check=True)


def main(argv: list[str]) -> int:
    cxx = compiler()
    if cxx is None:
        print("There is no C++ compiler (CXX, c++, g++, clang++): NOTHING was checked on a simulated CUDA device.")
        return 0
    folder = HERE / "_build"
    build(cxx, folder)
    sys.path[:0] = [str(HERE.parents[1]), str(folder), str(HERE)]
    import simcuda  # noqa: F401 - from now on there is a device

    if argv and argv[0].endswith(".py"):
        sys.argv, sys.path[:0] = argv, [str(Path(argv[0]).resolve().parent)]
        runpy.run_path(argv[0], run_name="__main__")
        return 0
    import pytest

    return int(pytest.main(["-p", "no:cacheprovider", str(HERE), *argv]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
