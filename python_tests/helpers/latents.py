"""Random inputs of the latent transformer, and the parity of its kernels with the reference in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from helpers import inference, parity
from helpers.parity import TOLERANCES
from poco.ops import latent_transformer, model_reference
from poco.ops.parameters import ModelParameters

SHAPES: list[dict[str, Any]] = [
    {"windows": 3},
    {"windows": 0},
    {"windows": 0, "own": True},
    {"windows": 64, "own": True, "heads": 4},
    {"windows": 13, "layers": 2, "hidden": 130},
    {"windows": 7, "own": True, "segments": 2, "latents": 3, "width": 33, "head_width": 4, "heads": 3},
    {"windows": 1, "latents": 1, "segments": 1, "width": 32, "head_width": 8, "heads": 1, "layers": 0},
    {"windows": 3, "latents": 48, "width": 40, "head_width": 12, "heads": 2, "hidden": 100},
    {"windows": 35, "own": True, "segments": 5, "latents": 5, "width": 32, "head_width": 36, "heads": 3},
    {"windows": 9, "latents": 17, "width": 101, "head_width": 20, "heads": 3, "hidden": 257, "layers": 3},
    {"windows": 2, "own": True, "hidden": 6},
]


def inputs(windows: int, dtype: torch.dtype = torch.float32, **shape: Any) -> tuple[Any, ...]:
    """Arguments of ``latent_transformer``."""
    segments, latents, width = (shape.get(k, v) for k, v in (("segments", 3), ("latents", 8), ("width", 128)))
    everything = inference.inputs(counts=(1,) * windows, **shape, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    pooled = torch.randn(windows, segments, latents, width, generator=generator)
    x, _, _, _, initial, frequencies, parameters, heads, eps = everything
    seed = torch.tensor(-(2**60) + 3)
    return (
        pooled,
        initial,
        list(ModelParameters.of(parameters).latents),
        frequencies,
        heads,
        x.shape[1],
        0.3,
        0.4,
        seed,
        eps,
    )


def double(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same in float64, but for the frequencies."""
    pooled, initial, parameters, *rest = arguments
    return pooled.double(), initial.double(), [p.double() for p in parameters], *rest


def results(arguments: tuple[Any, ...], by: Any = latent_transformer) -> list[Tensor | None]:
    """Keys, values, and the gradients of pooled, initial and all parameters."""
    pooled, initial, parameters, *rest = arguments
    pooled, initial, *parameters = leaves = [
        t.detach().clone().requires_grad_() for t in (pooled, initial, *parameters)
    ]
    outputs = by(pooled, initial, parameters, *rest)
    generator = torch.Generator().manual_seed(2)
    grads = [torch.randn(o.shape, generator=generator).to(torch.bfloat16).to(o) for o in outputs]
    gradients = torch.autograd.grad(outputs, leaves, grads)
    return [*(o.detach() for o in outputs), *gradients]


def exact(arguments: tuple[Any, ...]) -> list[Tensor | None]:
    """By the reference in float64."""
    *most, ffn_dropout, dropout, seed, eps = double(arguments)

    def reference(*most: Any) -> tuple[Tensor, Tensor]:
        return model_reference.latent_transformer(*most, eps, ffn_dropout, dropout, seed)

    return results(tuple(most), reference)


def check(shape: dict[str, Any], dtype: torch.dtype, device: str = "cpu") -> None:
    """Raises AssertionError unless the kernels agree with the reference."""
    arguments = inputs(**shape, dtype=dtype)
    found = parity.on(results(parity.on(arguments, device)), "cpu")
    parity.check(found, exact(arguments), TOLERANCES[dtype])


def check_all() -> None:
    for dtype in TOLERANCES:
        for shape in SHAPES:
            check(shape, dtype)
