"""The numbers that a case is computed from, and the right answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import poco
from benchmarks.cases import Case
from benchmarks.published import PublishedPOCO

_JUDGED_AT_ONCE = 4_096  # units: bounds the memory of the right answer, of whatever size the case is


@dataclass(frozen=True)
class Inputs:
    """What every contestant gets.

    Attributes:
        model: parameters, float32, all drawn at random (FiLM starts at zero otherwise).
        x: activity ``[B, N, C]``.
        z: latents ``[B, Q, d]``, for pass 2 alone.
        target: what a training step should forecast; without an optimiser, the gradient of the output.
    """

    model: poco.POCO
    x: Tensor
    z: Tensor
    target: Tensor

    @classmethod
    def of(cls, case: Case, device: str = "cpu") -> Inputs:
        """The same for the same case, always; drawn on the CPU, wherever they are then."""
        torch.manual_seed(0)
        config = poco.POCOConfig()
        model = poco.POCO(config, [poco.SessionSpec("session", case.units)]).eval()  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in model.film.parameters():
                parameter.normal_(0, 0.1)
            for parameter in (model.latents, model.datasets[0], *model.session_parameters(0)):
                parameter.normal_(0, 0.5)
        model.set_normalisation("session", torch.zeros(case.units), torch.ones(case.units))
        x = torch.randn(case.windows, case.units, config.context)
        z = torch.randn(case.windows, config.latents, config.width)
        shape = (
            (case.windows, config.latents, config.width)
            if case.part == "latent_pool"
            else (*x.shape[:2], config.horizon)
        )
        return cls(model.to(device), x.to(device), z.to(device), torch.randn(shape).to(device))


def right_answer(case: Case, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients of the published form in float32, a block of units at a time."""
    from benchmarks.contestants import FLOAT32, Contestant, Entry

    entry = Entry(Contestant("published", FLOAT32), case, inputs)
    assert isinstance(entry.part.form, PublishedPOCO)
    entry.part.form.block = _JUDGED_AT_ONCE
    return entry.answer()
