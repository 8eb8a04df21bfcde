"""POCO as a module: sessions, normalisation, precision, dropout, compilation, errors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from helpers import relative_error
from helpers.models import randomise

import poco
from poco.data.packed import PackedBatch
from poco.errors import ConfigError, ShapeError, VocabularyError
from poco.nn.model import POCO
from poco.ops import use_backend

SMALL = poco.POCOConfig(
    context=12, horizon=4, segment_length=4, latents=3, width=16, heads=2, head_width=8, film_width=20
)


def spec(name: str, units: int, dataset: str = "default", kinds: tuple[str, ...] = ()) -> poco.SessionSpec:
    return poco.SessionSpec(name, tuple(f"{name}-{i}" for i in range(units)), dataset, kinds)


@pytest.fixture
def model() -> POCO:
    return randomise(POCO(SMALL, [spec("fish", 5), spec("worm", 3, "worms")]))


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_session_by_name_and_by_index(model: POCO) -> None:
    x = draw(2, 3, 12)
    assert model(x, "worm").shape == (2, 3, 4)
    assert torch.equal(model(x, "worm"), model(x, 1))
    assert torch.equal(model(x, -1), model(x, 1))


def test_a_new_model_forecasts_a_constant() -> None:
    torch.manual_seed(0)
    model = POCO(SMALL, [spec("fish", 5)]).eval()
    assert torch.allclose(model(torch.randn(2, 5, 12)), model.film.output.bias.expand(2, 5, 4))


def test_same_seed_same_model() -> None:
    def build() -> POCO:
        torch.manual_seed(3)
        return POCO(SMALL, [spec("fish", 5)])

    assert all(torch.equal(a, b) for a, b in zip(build().parameters(), build().parameters(), strict=True))


def test_adding_an_animal_disturbs_nothing(model: POCO) -> None:
    x = draw(2, 5, 12)
    before, parameters = model(x, "fish"), {n: (p, p.detach().clone()) for n, p in model.named_parameters()}
    model.add_session(spec("new", 4, "worms"))
    model.add_session(spec("newer", 2, "mice"))
    now = dict(model.named_parameters())
    for name, (parameter, value) in parameters.items():
        assert now[name] is parameter
        assert torch.equal(parameter, value)
    assert torch.equal(model(x, "fish"), before)
    assert len(model.datasets) == 3
    assert model(draw(1, 4, 12), "new").shape == (1, 4, 4)
    assert {id(p) for p in model.session_parameters("new")} == {id(p) for p in model.session_embeddings[2].parameters()}


def test_subset_keeps_forecasts(model: POCO) -> None:
    model.metadata = {"rate_hz": {"worm": 2.0}}
    smaller = model.subset(["worm"])
    assert [s.name for s in smaller.sessions] == ["worm"]
    assert smaller.metadata == model.metadata
    assert torch.equal(smaller(draw(2, 3, 12), "worm"), model(draw(2, 3, 12), "worm"))
    with torch.no_grad():
        smaller.latents.zero_()
    assert model.latents.any()  # a copy


def test_unit_types_follow_their_names() -> None:
    config = poco.POCOConfig(**{**SMALL.to_dict(), "unit_type_embedding": True})
    model = randomise(POCO(config, [spec("a", 3, kinds=("x", "y", "x")), spec("b", 2, kinds=("z", "y"))]))
    assert len(model.unit_types) == 3
    smaller = model.subset(["b"])
    assert torch.equal(smaller(draw(1, 2, 12), "b"), model(draw(1, 2, 12), "b"))
    with pytest.raises(VocabularyError, match="needs unit types"):
        model.add_session(spec("c", 2))


def test_unit_types_survive_a_model_without_storage() -> None:
    config = poco.POCOConfig(**{**SMALL.to_dict(), "unit_type_embedding": True})
    model = randomise(POCO(config, [spec("a", 3, kinds=("x", "y", "x"))]))
    expected, state = model(draw(1, 3, 12), "a"), model.state_dict()
    with torch.device("meta"):
        assigned, filled = POCO(config, model.sessions).eval(), POCO(config, model.sessions).eval()
    assigned.load_state_dict(state, assign=True)
    filled.to_empty(device="cpu").double().load_state_dict(state)
    for other in (assigned, filled, copy.deepcopy(model).to("meta").to_empty(device="cpu")):
        other.load_state_dict(state)
        assert torch.equal(other(draw(1, 3, 12), "a"), expected)


def test_vocabulary_lives_in_the_state_dict(model: POCO) -> None:
    state = model.state_dict()
    same = POCO(SMALL, model.sessions).double().eval()
    same.load_state_dict(state)
    assert torch.equal(same(draw(1, 5, 12), "fish"), model(draw(1, 5, 12), "fish"))
    other = POCO(SMALL, [spec("cat", 5), spec("worm", 3, "worms")]).double()
    before = [p.detach().clone() for p in other.parameters()]
    with pytest.raises(VocabularyError, match=r"for sessions \['fish', 'worm'\] and the model for \['cat', 'worm'\]"):
        other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_normalisation_is_kept_exactly(model: POCO) -> None:
    mean, std = np.linspace(-1, 1, 5), np.linspace(0.1, 3, 5)
    model.set_normalisation("fish", mean, std)
    model.to(torch.bfloat16)
    assert torch.equal(model.normalisation("fish")[0], torch.as_tensor(mean).float())
    with pytest.raises(ShapeError, match="5 units"):
        model.set_normalisation("fish", mean[:4], std[:4])
    with pytest.raises(ShapeError, match="positive"):
        model.set_normalisation("fish", mean, 0 * std)


def test_a_normalisation_that_was_never_set_is_not_made_up(model: POCO) -> None:
    message = r"how session 'worm' was normalised.* call model.set_normalisation\('worm', mean, std\)"
    assert not model.is_normalised("worm")
    with pytest.warns(RuntimeWarning, match=message):
        assert torch.equal(model.normalisation("worm")[1], torch.ones(3))
    copied = copy.deepcopy(model)
    copied.load_state_dict(model.state_dict())
    with pytest.warns(RuntimeWarning, match=message):
        copied.normalisation("worm")
    model.set_normalisation("worm", np.zeros(3), np.ones(3))  # activity that was normalised before
    assert torch.equal(model.normalisation("worm")[1], torch.ones(3))
    assert model.subset(["worm"]).is_normalised("worm")
    copied.load_state_dict(model.state_dict())
    assert [copied.is_normalised(name) for name in ("fish", "worm")] == [False, True]


@pytest.mark.parametrize("depth", [1, 2])
def test_loss_is_that_of_the_forecast(depth: int) -> None:
    config = poco.POCOConfig(**{**SMALL.to_dict(), "film_depth": depth, "ffn_dropout": 0.3, "unit_dropout": 0.4})
    model = randomise(POCO(config, [spec("fish", 5)])).float().train()
    rows = PackedBatch(
        draw(10, 12).float(),
        torch.arange(5, dtype=torch.int32).repeat(2),
        torch.tensor([0, 5, 10], dtype=torch.int32),
        torch.zeros(2, dtype=torch.int64),
        draw(10, 4).float(),
    )

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        wanted = [p for p in model.parameters() if p.requires_grad]
        return [loss.detach(), *torch.autograd.grad(loss, wanted, materialize_grads=True)]

    for seed in range(3):
        torch.manual_seed(seed)
        expected = gradients((model.forward_packed(rows) - rows.target).square().mean())
        after = torch.rand(())
        torch.manual_seed(seed)
        for mine, other in zip(gradients(model.loss_packed(rows)), expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
        assert torch.rand(()) == after  # the same draws
    with pytest.raises(ShapeError, match="needs a batch with a target"):
        model.loss_packed(PackedBatch(rows.x, rows.unit_index, rows.window_offsets, rows.window_session))


def test_bfloat16(model: POCO) -> None:
    x = draw(2, 5, 12)
    expected = model(x, "fish")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert relative_error(model.float()(x.float(), "fish"), expected) < 2e-2
    half = model.to(torch.bfloat16)
    assert half.rotary.frequencies.dtype == torch.float32
    assert half(x.bfloat16(), "fish").dtype == torch.bfloat16
    assert relative_error(half(x.bfloat16(), "fish"), expected) < 2e-2


@pytest.mark.parametrize("sessions", [[0], [0, -1], [0, 2], [0, 1, 1]], ids=str)
def test_windows_must_be_of_known_sessions_where_latents_vary(sessions: list[int]) -> None:
    config = poco.POCOConfig(**{**SMALL.to_dict(), "latent_session_embedding": True})
    model = POCO(config, [spec("a", 5), spec("b", 5)])
    rows, offsets = torch.arange(10, dtype=torch.int32), torch.tensor([0, 5, 10], dtype=torch.int32)
    assert model.forward_packed(PackedBatch(draw(10, 12).float(), rows, offsets, torch.tensor([0, 1]))).shape == (10, 4)
    with pytest.raises(ShapeError, match=r"window_session must be (\[2\]|in 0\.\.1)"):
        model.forward_packed(PackedBatch(draw(10, 12).float(), rows, offsets, torch.tensor(sessions)))


@pytest.mark.parametrize("film_depth", [1, 2])
def test_dropout_is_drawn_from_the_global_seed(model: POCO, film_depth: int) -> None:
    config = poco.POCOConfig(**{**SMALL.to_dict(), "film_depth": film_depth, "unit_dropout": 0.4})
    model = randomise(POCO(config, [spec("fish", 5)])).train()
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(model(draw(2, 5, 12)))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    assert torch.equal(model.eval()(draw(2, 5, 12)), model(draw(2, 5, 12)))


@pytest.mark.parametrize("attention_dropout", [0.0, 0.3])
def test_the_same_seed_drops_the_same_by_every_backend(attention_dropout: float) -> None:
    config = {**SMALL.to_dict(), "ffn_dropout": 0.3, "latent_dropout": 0.4, "attention_dropout": attention_dropout}
    model = randomise(POCO(poco.POCOConfig(**config), [spec("fish", 5)])).float().train()
    outs = []
    for backend in (None, "reference"):
        torch.manual_seed(0)
        with use_backend(backend):
            outs.append(model(draw(2, 5, 12).float()))
    assert relative_error(*outs) < 1e-5
    torch.manual_seed(0)
    assert relative_error(model.double()(draw(2, 5, 12)), outs[0]) < 1e-5


def test_unit_dropout_hides_units_from_the_summary_only(model: POCO, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"unit_dropout": 0.5, "ffn_dropout": 0.0, "latent_dropout": 0.0}
    model = randomise(POCO(poco.POCOConfig(**{**SMALL.to_dict(), **config}), [spec("fish", 40)])).train()
    monkeypatch.setattr("poco.nn.fused._UNIT_DROPOUT_STEPS", 1.0)
    hidden, full = model(draw(3, 40, 12)), model.eval()(draw(3, 40, 12))
    assert hidden.shape == full.shape
    assert 0 < relative_error(hidden, full) < 0.5


def test_gradients_reach_only_the_sessions_that_are_there(model: POCO) -> None:
    model(draw(2, 5, 12), "fish").sum().backward()
    assert model.session_embeddings[0].units.grad is not None
    assert model.session_embeddings[1].units.grad is None
    batch = PackedBatch(
        draw(5, 12), torch.arange(5).int(), torch.tensor([0, 5], dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
    )
    model.forward_packed(batch).sum().backward()
    # Packed, all sessions are in the table, the absent ones with gradient zero.
    assert model.session_embeddings[1].units.grad is not None
    assert not model.session_embeddings[1].units.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles(model: POCO, dynamic: bool, dtype: torch.dtype) -> None:
    model, x = model.to(dtype), draw(2, 5, 12).to(dtype)
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    assert relative_error(compiled(x, "fish"), model(x, "fish")) < tolerance / 100
    expected = torch.autograd.grad(model(x, "fish").sum(), list(model.parameters()), allow_unused=True)
    actual = torch.autograd.grad(compiled(x, "fish").sum(), list(model.parameters()), allow_unused=True)
    for mine, reference in zip(actual, expected, strict=True):
        if reference is not None and reference.any():
            assert relative_error(mine, reference) < tolerance


@pytest.mark.parametrize("options", [{}, {"latent_session_embedding": True, "layers": 2}, {"film_width": 0}])
def test_inference_is_the_same(options: dict[str, Any]) -> None:
    """Without gradients the latents may go another way."""
    config = poco.POCOConfig(**{**SMALL.to_dict(), **options})
    model = randomise(POCO(config, [spec("fish", 5), spec("worm", 3, "worms")]))
    x = draw(2, 5, 12)
    expected = model(x, "fish")
    model, x = model.float(), x.float()
    with torch.no_grad():
        assert relative_error(model(x, "fish"), expected) < 1e-5
        assert relative_error(torch.compile(model, fullgraph=True, backend="aot_eager")(x, "fish"), expected) < 1e-5
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(model, (x, "fish"), dynamic_shapes=({0: batch}, None))
        assert relative_error(program.module()(x, "fish"), expected) < 1e-5
        changed = {name: 2 * p for name, p in model.named_parameters()}
        assert relative_error(torch.func.functional_call(model, changed, (x, "fish")), expected) > 1e-2
        model.film.shift.weight.data.mul_(2) if options.get("film_width", 1) else model.latents.data.mul_(2)
        assert relative_error(model(x, "fish"), expected) > 1e-4
    with torch.inference_mode():
        half = model.to(torch.bfloat16)(x.bfloat16(), "fish")
        assert relative_error(half, model.double()(x.double(), "fish")) < 2e-2
    frozen = model.float().requires_grad_(False)
    assert not frozen(x, "fish").requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exports(model: POCO, dtype: torch.dtype) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    model = model.subset(["fish"])  # of the only session nothing needs to be said
    model, x, more = model.to(dtype), draw(2, 5, 12).to(dtype), draw(7, 5, 12).to(dtype)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    assert relative_error(program.module()(more), model(more)) < (1e-12 if dtype == torch.float64 else 1e-5)
    assert any("poco.latent_pool" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: m(draw(2, 4, 12), "fish"), ShapeError, "'fish' takes .*5 units, 12 frames.*got .2, 4, 12."),
        (lambda m: m(draw(2, 5, 11), 0), ShapeError, "12 frames"),
        (lambda m: m(draw(5, 12), 0), ShapeError, "got .5, 12."),
        (lambda m: m(draw(2, 5, 12).numpy()), ShapeError, "must be a torch tensor, got ndarray"),
        (lambda m: m(draw(2, 5, 12), "cat"), VocabularyError, "unknown session 'cat'; the model knows fish, worm"),
        (lambda m: m(draw(2, 5, 12), 2), VocabularyError, "unknown session 2"),
        (lambda m: m(draw(2, 5, 12)), VocabularyError, r"knows 2 sessions: choose one \(session=.*: fish, worm"),
        (lambda m: m.add_session(spec("fish", 2)), VocabularyError, "knows a session 'fish' already"),
        (lambda m: POCO(SMALL)(draw(2, 5, 12)), VocabularyError, "add_session"),
        (lambda m: poco.SessionSpec("x", ("a", "a")), ConfigError, "more than once"),
        (lambda m: poco.SessionSpec("x", ()), ConfigError, "no units"),
        (lambda m: poco.POCOConfig(segment_length=7), ConfigError, "segment_length 7 .*does not divide the 48"),
        (lambda m: poco.POCOConfig(ffn_dropout=1.0), ConfigError, "ffn_dropout"),
        (lambda m: poco.POCOConfig(head_width=6), ConfigError, "multiple of 4"),
        (lambda m: poco.POCOConfig.from_dict({"widht": 3}), ConfigError, "'widht': did you mean 'width'"),
        (lambda m: poco.POCOConfig(t_max=float("nan")), ConfigError, "t_max must be a finite number above 0, got nan"),
        (lambda m: poco.POCOConfig(embedding_std=float("inf")), ConfigError, "embedding_std must be a finite number"),
        (lambda m: poco.POCOConfig.from_dict({"width": "3"}), ConfigError, "width must be a whole number, got '3'"),
    ],
)
def test_says_what_is_wrong(model: POCO, call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        call(model)
    assert "\n" not in str(caught.value)
