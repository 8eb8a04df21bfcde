"""No speed without the right answer: outputs and gradients are compared with the published form in float32."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from benchmarks.contestants import FLOAT32

TOLERANCES = {FLOAT32: 1e-4, "bfloat16": 3e-2}
Answer = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class Verdict:
    """Relative errors of the output and of all gradients together, and what is wrong ("" if nothing is)."""

    output: float
    gradients: float | None
    wrong: str = ""


def _error(found: Tensor, right: Tensor) -> float:
    return float((found - right).double().norm() / right.double().norm())


def judge(found: Answer, right: Answer, dtype: str) -> Verdict:
    """Compares an answer with the right one, in the tolerance of its precision."""
    tolerance = TOLERANCES[dtype]
    if found[0].shape != right[0].shape:
        return Verdict(float("nan"), None, f"output {list(found[0].shape)}, not {list(right[0].shape)}")
    output = _error(found[0], right[0])
    wrong = "" if output <= tolerance else f"output is off by {output:.1e}, more than {tolerance:.0e}"
    if not right[1]:
        return Verdict(output, None, wrong)
    differing = set(found[1]) ^ set(right[1])
    if differing:
        return Verdict(output, None, f"gradients differ in name: {', '.join(sorted(differing))}")
    norm = sum(float(g.double().square().sum()) for g in right[1].values())
    square = sum(float((found[1][name] - g).double().square().sum()) for name, g in right[1].items())
    gradients = (square / norm) ** 0.5
    if not wrong and not gradients <= tolerance:
        wrong = f"gradients are off by {gradients:.1e}, more than {tolerance:.0e}"
    return Verdict(output, gradients, wrong)
