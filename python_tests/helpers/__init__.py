"""What several tests share."""

from __future__ import annotations

import torch
from torch import Tensor


def relative_error(out: Tensor, reference: Tensor) -> float:
    """``||out - reference|| / ||reference||``, in float64."""
    reference = reference.detach().double()
    return float(torch.linalg.vector_norm(out.detach().double() - reference) / torch.linalg.vector_norm(reference))
