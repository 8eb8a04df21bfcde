"""poco.ground.latents against a whole eigendecomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.recordings import waves

import poco.ground.latents
from poco.data.splits import split
from poco.ground.latents import loadings, project


def test_leading_components_of_the_training_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poco.ground.latents, "_VALUES", 1000)  # many blocks of frames
    cut = split([waves("a", units=40, frames=500)], context=12, horizon=4)
    z = (cut.recordings[0].activity - cut.mean[0][:, None]) / cut.std[0][:, None]
    _, vectors = np.linalg.eigh(z[:, :300] @ z[:, :300].T)
    found = loadings(cut, 0, 3)
    assert found.shape == (40, 3)
    np.testing.assert_allclose(np.abs(found.T.numpy() @ vectors[:, ::-1][:, :3]), np.eye(3), atol=1e-4)
    assert torch.equal(found, loadings(cut, 0, 3))
    np.testing.assert_allclose(project(cut, 0, found).numpy(), found.T.numpy() @ z, rtol=1e-3, atol=1e-4)


def test_no_more_latents_than_units() -> None:
    cut = split([waves("a", units=3)], context=12, horizon=4)
    found = loadings(cut, 0, 8)
    assert found.shape == (3, 3)
    torch.testing.assert_close(found.T @ found, torch.eye(3, dtype=torch.float64))
