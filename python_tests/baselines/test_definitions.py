"""poco.baselines: the forecasters of other papers against what those papers define, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.recordings import waves
from torch import nn

from poco import baselines
from poco.baselines.ar_transformer import CausalLayer
from poco.baselines.fitted import fit_baseline
from poco.baselines.modern_tcn import along_time
from poco.data.packed import PackedBatch
from poco.data.splits import split
from poco.data.windows import Packer
from poco.nn import SessionSpec
from poco.scoring import score_forecasters
from poco.training.config import TrainConfig


def one_session(x: torch.Tensor, target: torch.Tensor | None = None) -> PackedBatch:
    """Windows ``[B, N, C]`` of session 0 as a packed batch."""
    windows, units, _ = x.shape
    offsets = torch.arange(0, windows * units + 1, units, dtype=torch.int32)
    index = torch.arange(units, dtype=torch.int32).repeat(windows)
    wanted = None if target is None else target.flatten(0, 1)
    return PackedBatch(x.flatten(0, 1), index, offsets, torch.zeros(windows, dtype=torch.int64), wanted)


def fill(layer: nn.Linear, value: float) -> None:
    nn.init.constant_(layer.weight, value)
    nn.init.zeros_(layer.bias)


@pytest.mark.parametrize("name", [n for n in baselines.ALL if n not in baselines.NAMES])
def test_is_fitted_kept_and_scored_like_any_other(name: str, tmp_path: Path) -> None:
    cut = split([waves("a", frames=120), waves("b", units=3, frames=120)], context=12, horizon=4)
    config = TrainConfig(steps=2)
    fitted = fit_baseline(name, cut, config=config, folder=tmp_path)
    again = fit_baseline(name, cut, config=config, folder=tmp_path)
    scores = score_forecasters({"fitted": fitted, "again": again}, cut)
    assert np.isfinite(scores["fitted"].score)
    assert scores["fitted"] == scores["again"]


def test_unit_ridge_solves_each_units_normal_equations() -> None:
    cut = split([waves("a", units=2)], context=6, horizon=2)
    model = baselines.UnitRidge(6, 2, [SessionSpec("a", 2)]).fit(cut, penalties=(0.01,))
    batch = Packer(cut).pack(cut.windows("train"))
    assert batch.target is not None
    for unit in range(2):
        own = batch.unit_index == unit
        x, y = batch.x[own].double(), batch.target[own].double()
        gram = x.T @ x
        expected = torch.linalg.solve(gram + 0.01 * gram.diagonal().mean() * torch.eye(6, dtype=torch.float64), x.T @ y)
        torch.testing.assert_close(model.get_buffer("weight_0")[unit].double(), expected, rtol=1e-4, atol=1e-6)


def test_dlinear_adds_the_maps_of_trend_and_remainder() -> None:
    model = baselines.DLinear(4, 1)  # a moving average over 3 frames
    fill(model.trend, 1.0)
    fill(model.rest, 0.0)
    x = torch.tensor([[[0.0, 3.0, 6.0, 9.0]]])  # trend 1, 3, 6, 8
    assert model.forward_packed(one_session(x)).item() == pytest.approx(18)
    fill(model.rest, 1.0)  # trend and remainder together are the context
    assert model.forward_packed(one_session(x)).item() == pytest.approx(18)


def test_mlp_large_has_the_published_layers() -> None:
    sizes = [tuple(p.shape) for p in baselines.MLPLarge(48, 16).parameters() if p.ndim == 2]
    assert sizes == [(2048, 48), (2048, 2048), (16, 2048)]


def test_pai_filter_is_a_circular_convolution() -> None:
    model = baselines.PaiFilter(4, 1)
    x, kernel = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.0, 0.5, 0.0, 0.0])
    with torch.no_grad():
        model.filter.copy_(torch.from_numpy(kernel))
    by_hand = np.array([1 + 4, 2 + 0.5, 4 + 1, 8 + 2]) / 2  # the two orthonormal transforms divide by sqrt(4)
    out = model.filtered(torch.from_numpy(x).float())
    np.testing.assert_allclose(out.detach().numpy(), by_hand, rtol=1e-5)


def test_tex_filter_filters_along_the_units_of_a_window() -> None:
    torch.manual_seed(0)
    model = baselines.TexFilter(6, 2, width=3, hidden=4).eval()
    with torch.no_grad():
        model.weights.mul_(50)  # so that little is shrunk away
    short, long = torch.randn(2, 3, 6), torch.randn(1, 5, 6)
    embedded = model.norm(model.embedding(short))
    spectrum = torch.fft.fft(embedded, dim=1) / 3**0.5
    # The filter of conjugate bins is not conjugate, so that only the first half of the spectrum is made use of.
    half = (spectrum * model.filter_of(spectrum))[:, :2]
    whole = torch.cat([half, half[:, 1:].conj()], 1)
    whole[:, 0] = whole[:, 0].real.to(whole.dtype)
    filtered = torch.fft.ifft(whole, dim=1).real * 3**0.5
    batch = one_session(short)
    torch.testing.assert_close(model._filtered(batch.x, batch).view(2, 3, 3), filtered)
    # Windows are filtered each for itself, whatever the number of units.
    both = PackedBatch(
        torch.cat([short.flatten(0, 1), long[0]]),
        torch.arange(11, dtype=torch.int32),
        torch.tensor([0, 3, 6, 11], dtype=torch.int32),
        torch.tensor([0, 0, 1]),
    )
    apart = [model.forward_packed(one_session(x)) for x in (short, long)]
    torch.testing.assert_close(model.forward_packed(both), torch.cat(apart))


def test_tex_filter_is_two_complex_layers_on_each_column() -> None:
    model = baselines.TexFilter(4, 1, width=2, shrink=0.5)
    with torch.no_grad():
        model.weights.zero_()
        model.weights[:, 0] = 1.0  # both layers multiply by 1
        model.biases.zero_()
    out = model.filter_of(torch.tensor([[2 - 3j, 0.25 + 1j]]))
    torch.testing.assert_close(out, torch.tensor([[1.5 + 0j, 0 + 0.5j]]))  # relu of both parts, then shrunk by 0.5


def test_tsmixer_without_mixing_is_its_read_out() -> None:
    model = baselines.TSMixer(4, 1, [SessionSpec("a", 2)], blocks=1).eval()
    fill(model.read_out, 1.0)
    fill(model.time[0], 0.0)  # type: ignore[arg-type]
    mixing = model.units[0][0]  # type: ignore[index]
    fill(mixing[4], 0.0)
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])
    torch.testing.assert_close(model.forward_packed(one_session(x)).flatten(), torch.tensor([10.0, 26.0]))
    mixing[4].bias.data.copy_(torch.tensor([0.0, 1.0]))  # the second unit gains 1 in each frame
    torch.testing.assert_close(model.forward_packed(one_session(x)).flatten(), torch.tensor([10.0, 30.0]))


def test_plrnn_step_and_inference() -> None:
    model = baselines.PLRNN(4, 2, [SessionSpec("a", 1)], latents=2)
    with torch.no_grad():
        model.decay.copy_(torch.tensor([0.5, 0.5]))
        model.coupling.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        model.offset.copy_(torch.tensor([0.0, 1.0]))
        model.observations[0].copy_(torch.tensor([[1.0, 0.0]]))
    x = torch.tensor([[[9.0, 9.0, 9.0, 4.0]]])
    # least norm state (4, 0) -> (2, 1) -> (1 + 1, 0.5 + 1)
    torch.testing.assert_close(model.forward_packed(one_session(x)), torch.tensor([[2.0, 2.0]]), rtol=1e-4, atol=1e-4)
    # the last frame of the context is forced, and the target runs free
    whole = baselines.PLRNN(4, 4, [SessionSpec("a", 1)], latents=2)
    whole.load_state_dict(model.state_dict())
    target = torch.tensor([[[2.0, 2.0, 2.5, 5.0]]])  # the roll-out: 2, 2, 2.5, 3
    loss = whole.loss_packed(one_session(x, target))
    assert loss.item() == pytest.approx((5.0 - (1.25 + 1.75)) ** 2 / 4, rel=1e-3)


def test_plrnn_couples_latents_to_others_alone() -> None:
    model = baselines.PLRNN(4, 1, [SessionSpec("a", 2)], latents=2)
    with torch.no_grad():
        model.decay.copy_(torch.tensor([0.5, 0.25]))
        model.coupling.copy_(torch.tensor([[7.0, 1.0], [2.0, 7.0]]))  # no latent is to have the 7 of itself
    torch.testing.assert_close(model.step(torch.tensor([[2.0, 4.0]])), torch.tensor([[1.0 + 4.0, 1.0 + 4.0]]))


def test_plrnn_is_forced_in_the_context_alone() -> None:
    torch.manual_seed(0)
    model = baselines.PLRNN(6, 5, [SessionSpec("a", 3)], latents=4, forcing=2)
    x, target = torch.randn(1, 3, 6), torch.randn(1, 3, 5)
    forced = [(x[..., 1], x[..., 2:4]), (x[..., 3], x[..., 4:6]), (x[..., 5], target)]
    errors = [(model.roll(given, 0, wanted.shape[-1]) - wanted).square().flatten() for given, wanted in forced]
    loss = model.loss_packed(one_session(x, target))
    torch.testing.assert_close(loss, torch.cat(errors).mean())


@pytest.mark.parametrize(("context", "horizon"), [(1, 1), (1, 3), (2, 1), (5, 2), (48, 16)])
def test_plrnn_learns_from_windows_of_any_size(context: int, horizon: int) -> None:
    model = baselines.build("plrnn", context, horizon, [SessionSpec("a", 3)])
    index = torch.arange(3, dtype=torch.int32)
    batch = PackedBatch(
        torch.randn(3, context),
        index,
        torch.tensor([0, 3], dtype=torch.int32),
        torch.zeros(1, dtype=torch.int64),
        target=torch.randn(3, horizon),
    )
    assert torch.isfinite(model.loss_packed(batch))  # type: ignore[operator]


def test_netformer_adds_what_the_connections_carry() -> None:
    model = baselines.NetFormer(3, 1, [SessionSpec("a", 2)])
    x = torch.randn(1, 2, 3)
    a = model.connections(x, 0)[0]
    expected = x[0, :, -1] + a @ x[0, :, -1]
    torch.testing.assert_close(model.forward_packed(one_session(x))[:, 0], expected)
    nn.init.zeros_(model.query.weight)
    torch.testing.assert_close(model.forward_packed(one_session(x))[:, 0], x[0, :, -1])


def test_ar_transformer_sees_no_later_frame() -> None:
    model = baselines.ARTransformer(4, 2, [SessionSpec("a", 2)], width=16, layers=2).eval()
    frames = torch.randn(1, 6, 2)
    changed = frames.clone()
    changed[:, 3:] += 1
    (before, _), (after, _) = model.next_frames({0: frames}), model.next_frames({0: changed})
    torch.testing.assert_close(before[0][:, :3], after[0][:, :3])
    assert not torch.allclose(before[0][:, 3:], after[0][:, 3:])


def test_ar_transformer_rolls_out_as_if_it_saw_all_frames_again() -> None:
    model = baselines.ARTransformer(4, 3, [SessionSpec("a", 2)], width=16, layers=2).eval()
    frames = torch.randn(2, 4, 2)
    forecast = model.forward_packed(one_session(frames.mT)).unflatten(0, (2, 2)).mT
    for step in range(3):
        frames = torch.cat([frames, model.next_frames({0: frames})[0][0][:, -1:]], 1)
        torch.testing.assert_close(forecast[:, step], frames[:, -1])


def test_ar_transformer_learns_from_the_context_and_from_its_own_roll_out() -> None:
    model = baselines.ARTransformer(4, 3, [SessionSpec("a", 2)], width=16, layers=2).eval()
    frames, target = torch.randn(2, 4, 2), torch.randn(2, 3, 2)
    within = model.next_frames({0: frames})[0][0][:, :-1] - frames[:, 1:]
    ahead = model.forward_packed(one_session(frames.mT)).unflatten(0, (2, 2)).mT - target
    expected = torch.cat([within.flatten(), ahead.flatten()]).square().mean()
    torch.testing.assert_close(model.loss_packed(one_session(frames.mT, target.mT)), expected)


def test_ar_transformer_takes_sessions_together_as_it_would_one_by_one() -> None:
    model = baselines.ARTransformer(4, 3, [SessionSpec("a", 2), SessionSpec("b", 3)], width=16, layers=2).eval()
    frames = {0: torch.randn(2, 4, 2), 1: torch.randn(1, 4, 3)}
    for session, found in model.next_frames(frames)[0].items():
        torch.testing.assert_close(found, model.next_frames({session: frames[session]})[0][session])


def test_ar_transformer_layer_is_that_of_a_transformer_encoder() -> None:
    layer = CausalLayer(16).eval()
    known = nn.TransformerEncoderLayer(16, 8, 32, 0.1, batch_first=True).eval()
    ours, theirs = layer.state_dict(), known.state_dict()
    names = {"norm1": "attention_norm", "self_attn.in_proj_": "attention.", "self_attn.out_proj": "mix"}
    names |= {"norm2": "norm", "linear1": "feed_forward.0", "linear2": "feed_forward.3"}
    for name in theirs:
        own = next(name.replace(old, new) for old, new in names.items() if name.startswith(old))
        theirs[name] = ours[own]
    known.load_state_dict(theirs)
    x, mask = torch.randn(2, 5, 16), nn.Transformer.generate_square_subsequent_mask(5)
    torch.testing.assert_close(layer(x)[0], known(x, mask, is_causal=True))


def test_patchtst_repeats_the_last_value_for_one_more_patch() -> None:
    model = baselines.PatchTST(6, 1, patch=4)
    patches = model.patches(torch.arange(6.0)[None])[0]
    assert patches.tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 5, 5]]


@pytest.mark.parametrize("name", ["patchtst", "modern-tcn", "pai-filter", "tex-filter"])
def test_normalised_windows_keep_level_and_scale(name: str) -> None:
    model, x = baselines.build(name, 12, 3).eval(), torch.randn(1, 4, 12)
    out, moved = (model.forward_packed(one_session(v)) for v in (x, 2 * x + 5))  # type: ignore[operator]
    torch.testing.assert_close(moved, 2 * out + 5, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("kernel", "length"), [(13, 12), (7, 9), (1, 3), (5, 2)])
def test_modern_tcn_convolves_along_time(kernel: int, length: int) -> None:
    large = nn.Conv1d(3, 3, kernel, padding="same", groups=3)
    x = torch.randn(5, 3, length)
    torch.testing.assert_close(along_time(large, x), large(x))


def test_modern_tcn_is_stem_blocks_and_read_out() -> None:
    model = baselines.ModernTCN(8, 1, width=1, kernel=1, blocks=1)
    for module in (model.mix[0][2], model.read_out):  # type: ignore[index]
        nn.init.constant_(module.weight, 1.0)
        nn.init.zeros_(module.bias)
    nn.init.zeros_(model.mix[0][2].weight)  # type: ignore[index]
    nn.init.constant_(model.stem.weight, 1.0)
    nn.init.zeros_(model.stem.bias)  # type: ignore[arg-type]
    # patches of 8 frames every 4, the last value repeated: sums of 0..7 and of 4..7 with 7 four times more
    assert model._forecast(torch.arange(8.0)[None]).item() == pytest.approx(28 + 22 + 28)


@pytest.mark.parametrize("name", ["taco", "uico"])
def test_ablations_start_from_a_constant_as_published(name: str) -> None:
    model = baselines.build(name, 12, 3, [SessionSpec("a", 4)])
    out = model.forward_packed(one_session(torch.randn(2, 4, 12)))  # type: ignore[operator]
    torch.testing.assert_close(out, out[:1].expand_as(out))  # FiLM's scale and shift start at zero


def test_uico_knows_the_unit_and_taco_its_past() -> None:
    x = torch.ones(1, 2, 12)
    for name, differs in (("uico", True), ("uico-large", True), ("taco", False)):
        model = baselines.build(name, 12, 3, [SessionSpec("a", 2)]).eval()
        nn.init.normal_(model.film.scale.weight)  # type: ignore[union-attr,arg-type]
        one, other = model.forward_packed(one_session(x))  # type: ignore[operator]
        assert torch.allclose(one, other) is not differs


def test_uico_large_has_the_mlp_of_mlp_large() -> None:
    film, layers = baselines.UICOLarge(12, 3, [SessionSpec("a", 2)]).film, baselines.MLPLarge(12, 3).layers
    own = [film.input, *film.deeper, film.output]
    assert [layer.weight.shape for layer in own] == [layer.weight.shape for layer in layers if hasattr(layer, "weight")]


def test_poyo_reads_the_forecast_off_the_state() -> None:
    model = baselines.POYO(12, 3, [SessionSpec("a", 2)])
    assert model.film.film_width == 0
    assert not hasattr(model.film, "scale")
