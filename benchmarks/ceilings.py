"""What this machine can do at most, measured on the spot: a large product in float32 and in bfloat16, a large copy."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.measure import take_turns


@dataclass(frozen=True)
class Ceilings:
    """FLOPs a second of a large matrix product by precision, and bytes a second of a large copy (read and written)."""

    float32: float
    bfloat16: float
    copy: float

    def least_seconds(self, flops: float, moved: float, dtype: str) -> float:
        """The roofline: what the work takes at the speed of the libraries that the ceilings were measured with.

        It can be beaten: by products that make more of the processor, or by data that stay in its caches.
        """
        peak = self.bfloat16 if dtype == "bfloat16" else self.float32
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
    calls = {"float32": lambda: a @ b, "bfloat16": lambda: low_a @ low_b, "copy": lambda: target.copy_(source)}
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds = 0.5 if quick else 2 if device == "cuda" else 10
    best = {name: times.best for name, times in take_turns(calls, seconds, 3, 20, finish).items()}
    flops = 2 * size**3
    return Ceilings(flops / best["float32"], flops / best["bfloat16"], 8 * count / best["copy"])
