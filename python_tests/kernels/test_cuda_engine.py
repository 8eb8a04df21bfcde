"""The CUDA kernels of the streaming engine, compiled without a GPU: tensor cores are used, and nothing spills."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "csrc"
NVCC = shutil.which("nvcc")
pytestmark = [
    pytest.mark.skipif(NVCC is None, reason="needs nvcc"),
    pytest.mark.skipif(not SOURCES.is_dir(), reason="needs the sources of the core"),
]


@pytest.mark.parametrize("capability", ["80", "90", "100"])
def test_kernels_compile(capability: str, tmp_path: Path) -> None:
    assert NVCC is not None
    command = [NVCC, "-std=c++17", "-O3", f"-I{SOURCES}", f"-arch=sm_{capability}", "-Xptxas", "-v", "--keep"]
    command += [f"--keep-dir={tmp_path}", "--cubin", "-o", str(tmp_path / "kernels.cubin")]
    done = subprocess.run(
        [*command, str(SOURCES / "cuda" / "kernels.cu")], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    if "is not defined for option 'gpu-architecture'" in done.stderr:
        pytest.skip(f"this nvcc does not know compute capability {int(capability) / 10}")
    assert done.returncode == 0, done.stderr
    spilled = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    kernels = re.findall(r"Compiling entry function '(\w+)'", done.stderr)
    assert len(kernels) == len(spilled) == 9
    assert set(spilled) == {("0", "0")}
    entries = re.split(r"\.entry ", (tmp_path / "kernels.ptx").read_text())[1:]
    products = {entry.split("(")[0].strip(): "wmma.mma" in entry for entry in entries}
    assert {name for name, there in products.items() if there} == {"poco_film_forecast_bfloat16"}
