"""What this machine can do at most, measured on the spot: a large product in float32 and in bfloat16, a large copy."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from benchmarks.measure import take_turns


@dataclass(frozen=True)
class Ceilings:
    """FLOPs a second of a large matrix product by precision, and bytes a second of a large copy (read and written)."""

    float32: float
    bfloat16: float
    copy: float

    def to_json(self) -> dict[str, float]:
        """As plain values."""
        return asdict(self)

    def least_seconds(self, flops: float, moved: float, dtype: str) -> float:
        """The roofline: no implementation in this precision takes less."""
        peak = self.bfloat16 if dtype == "bfloat16" else self.float32
        return max(flops / peak, moved / self.copy)


def measure(quick: bool = False) -> Ceilings:
    """The ceilings of as many threads as torch has. The best of the turns counts: noise only lowers a ceiling."""
    size, count = (1024, 2**24) if quick else (4096, 2**27)
    a, b = torch.randn(size, size), torch.randn(size, size)
    low_a, low_b = a.bfloat16(), b.bfloat16()
    source = torch.zeros(count)
    target = torch.empty_like(source).zero_()
    calls = {"float32": lambda: a @ b, "bfloat16": lambda: low_a @ low_b, "copy": lambda: target.copy_(source)}
    best = {name: times.best for name, times in take_turns(calls, 0.5 if quick else 10, 3, 20).items()}
    flops = 2 * size**3
    return Ceilings(flops / best["float32"], flops / best["bfloat16"], 8 * count / best["copy"])
