"""Latents of a population: the leading principal components of its training frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from poco.data.splits import Split

_OVERSAMPLING = 8  # components iterated beyond those kept, for quick convergence
_ITERATIONS = 8
_VALUES = 1 << 22  # normalised values held at once


def loadings(split: Split, session: int, latents: int) -> torch.Tensor:
    """Weights of the units in each latent, orthonormal, by subspace iteration over the training frames.

    Memory is linear in the number of units and does not grow with the recording. The same recording gives the same
    loadings; signs are fixed.

    Args:
        split: recordings and statistics.
        session: which recording.
        latents: components to keep; fewer where there are fewer units.

    Returns:
        ``[N, K]`` float64, the component with the largest variance first.
    """
    units = split.recordings[session].units
    kept, tried = min(latents, units), min(latents + _OVERSAMPLING, units)
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(units, tried, generator=generator, dtype=torch.float64)
    for _ in range(_ITERATIONS):
        basis = _covariance_times(split, session, torch.linalg.qr(basis).Q)
    basis = torch.linalg.qr(basis).Q
    _, vectors = torch.linalg.eigh(basis.T @ _covariance_times(split, session, basis))
    found = basis @ vectors.flip(1)[:, :kept]
    largest = found.abs().argmax(0, keepdim=True)
    return found * found.gather(0, largest).sign()


def project(split: Split, session: int, weights: torch.Tensor) -> torch.Tensor:
    """The latents in every frame of a recording, ``[K, T]`` float32; frames that are not finite give what they give.

    Args:
        split: recordings and statistics.
        session: which recording.
        weights: ``[N, K]``.
    """
    frames = split.recordings[session].frames
    parts = [weights.float().T @ block.float() for block in _blocks(split, session, ((0, frames),))]
    return torch.cat(parts, 1)


def _covariance_times(split: Split, session: int, basis: torch.Tensor) -> torch.Tensor:
    """``X X' basis / T`` over the training frames, ``[N, k]``."""
    total, frames = torch.zeros_like(basis), 0
    for block in _blocks(split, session, split.segments["train"][session]):
        total += block @ (block.T @ basis)
        frames += block.shape[1]
    return total / frames


def _blocks(split: Split, session: int, segments: tuple[tuple[int, int], ...]) -> Iterator[torch.Tensor]:
    """Normalised activity ``[N, t]`` float64, some frames at a time."""
    activity = split.recordings[session].activity
    mean, inverse = split.mean[session][:, None], split.inverse_std[session][:, None]
    length = max(1, _VALUES // len(activity))
    for start, stop in segments:
        for first in range(start, stop, length):
            block = (activity[:, first : min(first + length, stop)] - mean) * inverse
            yield torch.from_numpy(np.asarray(block, dtype=np.float64))
