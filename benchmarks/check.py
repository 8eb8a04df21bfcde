"""No speed without the right answer: outputs and gradients are compared with the published form in float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.contestants import FLOAT32

_LEAST_SHARE = 1e-3  # of the largest gradient's norm: what is smaller is judged as if it were so large
TOLERANCES = {FLOAT32: 1e-4, "bfloat16": 3e-2}
# Each gradient by itself. In bfloat16 units of a ReLU that are near 0 open or close by rounding: that of the weights
# before it is off by 4% in the published form too.
GRADIENT_TOLERANCES = {FLOAT32: 1e-4, "bfloat16": 6e-2}
Answer = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class Verdict:
    """Relative errors of the output and of the gradient that is worst, and what is wrong ("" if nothing is)."""

    output: float
    gradients: float | None
    wrong: str = ""


def judge(found: Answer, right: Answer, dtype: str) -> Verdict:
    """Compares an answer with the right one, in the tolerance of its precision."""
    tolerance = TOLERANCES[dtype]
    if found[0].shape != right[0].shape:
        return Verdict(float("nan"), None, f"output {list(found[0].shape)}, not {list(right[0].shape)}")
    output = float((found[0] - right[0]).double().norm() / right[0].double().norm())
    wrong = "" if output <= tolerance else f"output is off by {output:.1e}, more than {tolerance:.0e}"
    if not right[1]:
        return Verdict(output, None, wrong)
    differing = set(found[1]) ^ set(right[1])
    if differing:
        return Verdict(output, None, f"gradients differ in name: {', '.join(sorted(differing))}")
    names = sorted(right[1])
    norms = torch.stack([right[1][name].double().norm() for name in names])
    errors = torch.stack([(found[1][name] - right[1][name]).double().norm() for name in names])
    least = max(_LEAST_SHARE * float(norms.max()), torch.finfo(torch.float64).tiny)
    shares = errors / norms.clamp(min=least)
    worst = int(shares.argmax())  # NaN counts as the largest
    gradients = float(shares[worst])
    allowed = GRADIENT_TOLERANCES[dtype]
    if not wrong and not gradients <= allowed:
        wrong = f"gradients are off by {gradients:.1e}, more than {allowed:.0e}, in {names[worst]}"
    return Verdict(output, gradients, wrong)
