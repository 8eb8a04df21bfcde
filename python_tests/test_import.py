from __future__ import annotations

import sys
from pathlib import Path

import pytest

OPTIONAL = (
    "triton", "h5py", "scipy", "zarr", "pynwb", "hdmf", "pandas", "typer", "rich", "matplotlib", "tensorboard", "pylsl",
    "zmq", "tomli",
)  # fmt: skip


def test_takes_less_than_0_3_s_beyond_torch(run_python) -> None:
    code = "import time, torch; begin = time.perf_counter(); import poco; print(time.perf_counter() - begin)"
    times = []
    for _ in range(6):  # the first may compile bytecode, others may wait for the processor
        times.append(float(run_python(code).stdout))
        if times[-1] < 0.3:
            break
    assert min(times) < 0.3, times


def test_imports_torch_and_numpy_only(run_python) -> None:
    code = (
        "import sys, numpy, torch; before = set(sys.modules); import poco\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    assert set(run_python(code).stdout.split()) - sys.stdlib_module_names <= {"numpy", "poco"}


@pytest.mark.parametrize("hide", [OPTIONAL, ("triton",)], ids=["without any optional package", "with triton absent"])
def test_works_without(run_python, hide: tuple[str, ...]) -> None:
    code = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hide!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Hide())
import poco
print(poco.__version__); print(poco.info())
"""
    assert "reference" in run_python(code).stdout


def test_works_with_triton_present_but_unusable(run_python, tmp_path: Path) -> None:
    package = tmp_path / "fake" / "triton"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('0 active drivers ([]). There should only be one.')\n")
    code = "import poco, sys; print(poco.info()); print('triton' in sys.modules)"
    done = run_python(code, path=(package.parent,))
    assert "reference" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_works_with_a_broken_core_and_says_so(run_python) -> None:
    code = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "poco._core":
            raise ImportError("libgone.so.1: cannot open shared object file")
sys.meta_path.insert(0, Broken())
import poco
print("imported", file=sys.stderr)
print(poco.info())
"""
    done = run_python(code)
    assert "RuntimeWarning" in done.stderr.split("imported")[0]
    assert done.stderr.count("RuntimeWarning: poco: the compiled core cannot be used (libgone.so.1") == 1
    assert "compiled  no: libgone.so.1" in done.stdout


def test_nothing_is_printed_and_no_threads_are_left(run_python) -> None:
    done = run_python("import threading; import poco; print(threading.active_count())", env={"POCO_CORE": "off"})
    assert (done.stdout, done.stderr) == ("1\n", "")
