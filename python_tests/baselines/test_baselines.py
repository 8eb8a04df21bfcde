"""poco.baselines: each forecaster against its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.recordings import waves

from poco import baselines
from poco.baselines import MLP, Copy, Mean, NLinear, Ridge
from poco.baselines.fitted import fit_baseline
from poco.data.packed import PackedBatch
from poco.data.splits import Split, split
from poco.data.windows import Packer
from poco.errors import ConfigError, VocabularyError
from poco.nn import SessionSpec
from poco.scoring import score_forecasters
from poco.training.validation import predict, training_loss


def batch_of(x: torch.Tensor) -> PackedBatch:
    rows = x.shape[0]
    index = torch.arange(rows, dtype=torch.int32)
    return PackedBatch(x, index, torch.tensor([0, rows], dtype=torch.int32), torch.zeros(1, dtype=torch.int64))


def everything(cut: Split, part: str) -> tuple[np.ndarray, np.ndarray]:
    batch = Packer(cut).pack(cut.windows(part))
    assert batch.target is not None
    return batch.x.double().numpy(), batch.target.double().numpy()


@pytest.mark.parametrize("name", baselines.NAMES)
def test_every_baseline_maps_rows_to_horizons(name: str) -> None:
    model = baselines.build(name, 12, 5)
    if name in baselines.OF_SESSIONS:
        with pytest.raises(VocabularyError, match="session 0 of 0 known ones"):
            model.forward_packed(batch_of(torch.randn(7, 12)))  # type: ignore[operator]
        model.add_session(SessionSpec("a", 7))  # type: ignore[operator]
    out = model.forward_packed(batch_of(torch.randn(7, 12)))  # type: ignore[operator]
    assert out.shape == (7, 5)
    assert out.dtype == torch.float32


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="no baseline 'arima': choose from copy, mean, ridge, nlinear, mlp, ground"):
        baselines.build("arima", 48, 16)


def test_copy_and_mean() -> None:
    x = torch.randn(4, 12)
    assert torch.equal(Copy(12, 3).forward_packed(batch_of(x)), x[:, [-1, -1, -1]])
    assert torch.equal(Mean(12, 3).forward_packed(batch_of(x)), torch.zeros(4, 3))


def test_nlinear_moves_with_the_level() -> None:
    model, x = NLinear(12, 3).double(), torch.randn(4, 12, dtype=torch.float64)
    torch.testing.assert_close(model.forward_packed(batch_of(x + 5)), model.forward_packed(batch_of(x)) + 5)


def test_mlp_has_the_published_width() -> None:
    assert sum(p.numel() for p in MLP(48, 16).parameters()) == 48 * 1024 + 1024 + 1024 * 16 + 16


def test_ridge_solves_the_normal_equations() -> None:
    cut = split([waves("a"), waves("b", units=3)], context=12, horizon=4)
    x, y = everything(cut, "train")
    penalty = 0.01
    expected = np.linalg.solve(x.T @ x + penalty * (x**2).sum() / 12 * np.eye(12), x.T @ y)
    model = Ridge(12, 4).fit(cut, penalties=(penalty,))
    np.testing.assert_allclose(model.weight.T.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_ridge_chooses_its_penalty_on_the_validation_part() -> None:
    cut = split([waves("a", units=2)], context=48, horizon=4)
    penalties = (1e-6, 1e-2, 1.0, 100.0)
    x, y = everything(cut, "val")
    errors = []
    for penalty in penalties:
        weight = Ridge(48, 4).fit(cut, penalties=(penalty,)).weight.double().numpy()
        errors.append(((x @ weight.T - y) ** 2).mean())
    assert Ridge(48, 4).fit(cut, penalties).penalty == penalties[int(np.argmin(errors))]


def test_ridge_beats_copy_on_waves() -> None:
    cut = split([waves("a"), waves("b")])
    scores = score_forecasters({"ridge": Ridge(48, 16).fit(cut), "copy": Copy(48, 16)}, cut)
    assert scores["ridge"].score > 0.5
    assert scores["copy"].score == 0


def test_ground_is_kept_with_its_sessions(tmp_path: Path) -> None:
    cut = split([waves("a"), waves("b", units=3)], context=12, horizon=4)
    first = fit_baseline("ground", cut, folder=tmp_path)
    again = fit_baseline("ground", cut, folder=tmp_path)
    assert [s.name for s in again.sessions] == ["a", "b"]  # type: ignore[union-attr]
    scores = score_forecasters({"first": first, "again": again, "copy": Copy(12, 4)}, cut)
    assert scores["first"] == scores["again"]
    assert scores["first"].score > 0.5


@pytest.mark.parametrize("name", baselines.TRAINED)
def test_trained_baselines_take_bfloat16(name: str) -> None:
    """Under autocast losses, gradients and forecasts are those of float32 but for rounding."""
    cut = split([waves("a"), waves("b", units=3)], context=12, horizon=4)
    torch.manual_seed(0)
    model = baselines.build(name, 12, 4, [SessionSpec.of(one) for one in cut.recordings]).eval()
    packer, found = Packer(cut), {}
    # The first and the last windows are of the two sessions.
    batch = packer.pack(cut.windows("train")[[0, 3, 7, -1]])
    for precision in ("float32", "bf16"):
        model.zero_grad()
        torch.manual_seed(1)
        loss = training_loss(model, batch, precision)
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        with torch.no_grad():
            found[precision] = (loss.detach(), gradients, predict(model, batch, precision))
    for wide, low in zip(found["float32"], found["bf16"], strict=True):
        assert low.dtype == torch.float32
        assert (low - wide).norm() <= 0.05 * wide.norm() + 1e-6
