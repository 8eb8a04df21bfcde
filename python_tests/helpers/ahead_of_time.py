"""Compiles the kernels that a call would launch on a GPU, without one."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64"}
_OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True)
class Launch:
    """A kernel as a call would have launched it."""

    kernel: Any
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        return self.kernel.__name__  # type: ignore[no-any-return]

    def compile(self, arch: int) -> Compiled:
        """Compiles it for compute capability ``arch`` (90 is 9.0)."""
        names = [p.name for p in self.kernel.params]
        constants = {p.name: self.arguments[p.name] for p in self.kernel.params if p.is_constexpr}
        free = {p.name for p in self.kernel.params if p.do_not_specialize}
        signature, attributes = {}, {}
        for i, name in enumerate(names):
            value = self.arguments[name]
            if name in constants:
                signature[name] = "constexpr"
            elif isinstance(value, torch.Tensor):
                signature[name] = _TYPES[value.dtype]
                attributes[(i,)] = [["tt.divisibility", 16]]
            elif isinstance(value, float):
                signature[name] = "fp32"
            else:
                signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
                if name not in free and value % 16 == 0:
                    attributes[(i,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, constants, attributes)
        options = {name: self.arguments[name] for name in _OPTIONS if name in self.arguments}
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
        return Compiled(
            self.name, compiled.asm["ptx"], compiled.metadata.shared, *_resources(compiled.asm["ptx"], arch)
        )


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a kernel: bytes of shared memory, registers, bytes of spills."""

    name: str
    ptx: str
    shared: int
    registers: int
    spills: int

    def products(self) -> set[str]:
        """The matrix instructions in it."""
        return set(re.findall(r"\b(wgmma\.mma_async|tcgen05\.mma|mma\.sync)\b", self.ptx))


def _resources(ptx: str, arch: int) -> tuple[int, int]:
    """Registers and bytes of spills, as the assembler reports them."""
    target = re.search(r"\.target (sm_\w+)", ptx)
    assert target is not None
    assembler = BINARIES / ("ptxas-blackwell" if arch >= 100 and (BINARIES / "ptxas-blackwell").exists() else "ptxas")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [str(assembler), "-v", f"--gpu-name={target[1]}", str(path), "-o", str(path.with_suffix(".cubin"))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, stores = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    assert registers is not None
    assert stores is not None
    return int(registers[1]), int(stores[1])


class _Recorder:
    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def record(*args: Any, **kwargs: Any) -> None:
            names = [p.name for p in self.kernel.params]
            self.launches.append(Launch(self.kernel, {**dict(zip(names, args, strict=False)), **kwargs}))

        return record


@contextmanager
def recorded(modules: list[ModuleType], arch: int) -> Iterator[list[Launch]]:
    """Collects the launches of these modules' kernels instead of making them, with the tiles of ``arch``."""
    from poco.kernels import launch, tiles

    launches: list[Launch] = []
    with mock.patch.object(tiles, "INTERPRETED", False), mock.patch.object(launch, "INTERPRETED", False):
        patches = [
            mock.patch.object(module, name, _Recorder(kernel, launches))
            for module in modules
            for name, kernel in vars(module).items()
            if name.endswith("_kernel") and hasattr(kernel, "params")
        ]
        patches += [
            mock.patch.object(tiles, "architecture", return_value=arch),
            mock.patch.object(launch, "processors", return_value=132),
        ]
        for patch in patches:
            patch.start()
        try:
            yield launches
        finally:
            for patch in patches:
                patch.stop()
