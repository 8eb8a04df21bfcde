"""What this machine can do at most, measured on the spot: a large product in float32 and in bfloat16, a large copy."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.measure import take_turns

_SMALL = 512  # rows and columns of a product that takes any processor well below a second


@dataclass(frozen=True)
class Ceilings:
    """FLOPs a second of a large matrix product by precision, and bytes a second of a large copy (read and written).

    A processor without products in bfloat16 makes them slowly: then float32 is the ceiling of work in bfloat16 too.
    """

    float32: float
    bfloat16: float
    copy: float

    def least_seconds(self, flops: float, moved: float, dtype: str) -> float:
        """The roofline: what the work takes at the speed of the libraries that the ceilings were measured with.

        It can be beaten: by products that make more of the processor, or by data that stay in its caches.
        """
        peak = max(self.bfloat16, self.float32) if dtype == "bfloat16" else self.float32
        return max(flops / peak, moved / self.copy)


def measure(quick: bool = False, device: str = "cpu") -> Ceilings:
    """The ceilings of a device, or of as many threads as torch has. The best turn counts: noise only lowers a ceiling.

    In float32 without TF32, unless torch is set to it.
    """
    size, count = (1024, 2**24) if quick else (4096, 2**27)
    if device == "cuda" and not quick:
        size, count = 8192, 2**30
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    low_a, low_b = a.bfloat16(), b.bfloat16()
    source = torch.zeros(count, device=device)
    target = torch.empty_like(source).zero_()
    calls = {"float32": lambda: a @ b, "copy": lambda: target.copy_(source)}
    small = 0.0 if device == "cuda" else _slow_bfloat16()
    if not small:
        calls["bfloat16"] = lambda: low_a @ low_b
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds = 0.5 if quick else 2 if device == "cuda" else 10
    best = {name: times.best for name, times in take_turns(calls, seconds, 3, 20, finish).items()}
    flops = 2 * size**3
    return Ceilings(flops / best["float32"], small or flops / best["bfloat16"], 8 * count / best["copy"])


def library_multiplies_bfloat16() -> bool:
    """Whether products in bfloat16 take this processor no longer than in float32."""
    return not _slow_bfloat16()


def _slow_bfloat16() -> float:
    """FLOPs a second of a small product in bfloat16 where float32 is faster (a large one takes minutes), else 0."""
    a = torch.randn(_SMALL, _SMALL)
    low = a.bfloat16()
    times = take_turns({"float32": lambda: a @ a, "bfloat16": lambda: low @ low}, 0.2, 3, 10)
    slow = times["bfloat16"].best > times["float32"].best
    return 2 * _SMALL**3 / times["bfloat16"].best if slow else 0.0
