"""The linear map that all units share, and the scale of their own features, from products of frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from poco.ground.form import Form
from poco.ground.penalties import MEAN_WORTH, SHARED_PENALTIES, USUAL, Penalties
from poco.ground.sessions import FOLDS, Session
from poco.ground.sums import what_is_left


def shared_maps(
    form: Form, sessions: Sequence[Session], grams: Sequence[Tensor], given: Penalties | None
) -> tuple[Tensor, Penalties]:
    """The shared maps ``[1 + K, H, C]`` float64, on all windows and without each fold, and their penalty.

    Args:
        form: level or centred.
        sessions: with their folds.
        grams: of each session, see :func:`poco.ground.sums.frame_grams`.
        given: the penalties; default those of the shared map with the lowest squared error out of fold, else usual.
    """
    horizon, context = form.weight.shape
    taken_off = torch.eye(context + horizon, dtype=torch.float64)
    if form.centred:
        taken_off[:, :context] -= 1.0 / context  # row vectors x -> x - mean of the context, written for x' = M x
    fits = torch.zeros(1 + FOLDS, context + horizon, context + horizon, dtype=torch.float64)
    held = torch.zeros_like(fits)
    for session, gram in zip(sessions, grams, strict=True):
        sums = torch.einsum("kg,gab->kab", session.fits.double(), gram)
        fits[: len(sums)] += sums
        fits[len(sums) :] += sums[0]  # a session without so many folds is seen whole
        if session.folds is not None:
            held[1 : 1 + session.folds.count] += gram[: session.folds.count]
    fits, held = (taken_off @ g @ taken_off.T for g in (fits, held))

    gram, cross = fits[:, :context, :context], fits[:, :context, context:] - fits[:, :context, context - 1 : context]
    unit = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(context, dtype=torch.float64)
    maps, errors = {}, {}
    if given is None and not held[1:].any():
        given = USUAL
    tried = SHARED_PENALTIES if given is None else {given.last: (given.shared,)}
    for last, shared in ((last, shared) for last, some in tried.items() for shared in some):
        penalties = dataclasses.replace(given or USUAL, shared=shared, last=last)
        ridge = shared * unit
        towards = cross + (last - 1.0) * ridge[:, :, -1:]  # maps are from the last value on, the mean is its negative
        maps[penalties] = torch.linalg.solve(gram + ridge + _tiny(gram), towards).mT.contiguous()
        left = what_is_left(maps[penalties][1:])
        error = float((left @ held[1:] @ left.mT).diagonal(dim1=1, dim2=2).sum())
        errors[penalties] = error if last else (1.0 + MEAN_WORTH) * error
    best = min(errors, key=errors.__getitem__)
    return maps[best], best


def set_own_scale(form: Form, grams: Sequence[Tensor], sessions: Sequence[Session]) -> None:
    """Root mean square of the units' own features over all training windows."""
    context = form.own_map.shape[0]
    taken_off = torch.eye(context, dtype=torch.float64) - (1.0 / context if form.centred else 0.0)
    total, rows = torch.zeros(context, context, dtype=torch.float64), 0
    for session, gram in zip(sessions, grams, strict=True):
        total += torch.einsum("g,gab->ab", session.fits[0].double(), gram)[:context, :context]
        rows += session.start.size * len(session.loadings)
    means = taken_off.T @ form.own_map.double()
    form.own_scale.copy_(safe_root((means * (total @ means)).sum(0) / rows))


def safe_root(square: Tensor) -> Tensor:
    """Square roots, 1 where there is nothing to scale."""
    return torch.where(square > 1e-12, square, torch.ones_like(square)).sqrt()


def _tiny(gram: Tensor) -> Tensor:
    """So little on the diagonal that it changes nothing but an empty sum."""
    return torch.eye(gram.shape[-1], dtype=gram.dtype) * 1e-12
