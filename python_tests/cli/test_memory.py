"""poco.cli.memory: freed memory of a large array is used again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from helpers.processes import environment

PROGRAM = """
import resource, sys
import numpy as np
from poco.cli.memory import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**24)
before = faults()
for _ in range(10):
    np.ones(2**24)  # 128 MB
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_arrays_take_no_new_pages(tmp_path) -> None:
    def faults(how: str) -> int:
        command = [sys.executable, "-c", PROGRAM, how]
        done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 100 < faults("leave")
