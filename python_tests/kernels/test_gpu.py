"""The Triton kernels on a GPU: parity, determinism, graphs, compilation, training."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from helpers import inference, latents, parity, relative_error
from helpers.passes import differentiable, film_forecast_inputs, latent_pool_inputs

import poco
from poco.data.packed import PackedBatch
from poco.errors import BackendError, ShapeError
from poco.graphs import GradientGraph, InferenceGraph
from poco.ops import backends, use_backend
from poco.ops.dropout import dropout_mask
from poco.ops.precision import cast
from poco.training import fit

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
pytestmark = pytest.mark.gpu


@pytest.fixture
def by() -> Any:
    from poco.ops import triton

    return triton


@pytest.fixture
def poisoned() -> Any:
    """Fresh memory holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", parity.TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", parity.POOL_SHAPES, ids=lambda s: str(s)[:60])
def test_latent_pool(by, shape: dict[str, Any], dtype: torch.dtype) -> None:
    parity.check_pool(shape, dtype, by=by, device="cuda")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", parity.TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", parity.FILM_SHAPES, ids=lambda s: str(s)[:60])
def test_film_forecast(by, shape: dict[str, Any], dtype: torch.dtype) -> None:
    parity.check_film(shape, dtype, by=by, device="cuda")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", inference.TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", inference.SHAPES, ids=lambda s: str(s)[:60])
def test_inference(by, shape: dict[str, Any], dtype: torch.dtype) -> None:
    inference.check(shape, dtype, by=by, device="cuda")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", latents.TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", latents.SHAPES, ids=lambda s: str(s)[:60])
def test_between_the_passes_in_training(shape: dict[str, Any], dtype: torch.dtype) -> None:
    latents.check(shape, dtype, device="cuda")


def test_one_tf32_product_where_torch_is_asked_for_it(by) -> None:
    shape = {"counts": (300,), "width": 128, "latents": 8, "context": 48, "hidden": 512, "film": 256, "horizon": 16}
    inputs = parity.film_inputs(**shape)
    exact = parity.reference.film_forecast(*map(parity._double, inputs))
    before = torch.backends.cuda.matmul.allow_tf32
    errors = []
    try:
        for allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            errors.append(relative_error(by.film_forecast(*parity.on(inputs, "cuda")).cpu(), exact))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert errors[0] < 1e-5 < errors[1] < 2e-2


def test_the_same_gradients_every_time(by) -> None:
    shape: dict[str, Any] = {"counts": (700, 3, 900), "table": 80, "width": 33, "latents": 5}
    pool = parity.on(parity.pool_inputs(**shape), "cuda")
    film = parity.on(parity.film_inputs(**shape, hidden=40, film=50, horizon=5), "cuda")
    between = parity.on(latents.inputs(windows=70), "cuda")
    first = [*parity.pool_results(pool, by=by), *parity.film_results(film, by=by), *latents.results(between)]
    for _ in range(3):
        again = [*parity.pool_results(pool, by=by), *parity.film_results(film, by=by), *latents.results(between)]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_default_on_cuda_tensors() -> None:
    device = torch.device("cuda")
    assert backends.choose(device, torch.float32).name == "triton"
    assert backends.choose(device, torch.bfloat16).name == "triton"
    assert backends.choose(device, torch.float64).name == "reference"


@pytest.mark.parametrize(("op", "make"), [("latent_pool", latent_pool_inputs), ("film_forecast", film_forecast_inputs)])
def test_opcheck_and_compile(op: str, make: Any) -> None:
    call = getattr(torch.ops.poco, op)
    inputs = tuple(
        t.detach().cuda().requires_grad_(t.requires_grad) if torch.is_tensor(t) else t
        for t in make(dtype=torch.float32)
    )
    torch.library.opcheck(call.default, inputs)

    def loss(*args: Any) -> torch.Tensor:
        out = call(*args)
        return (out if torch.is_tensor(out) else out[0]).square().sum()

    expected = torch.autograd.grad(loss(*inputs), differentiable(inputs))
    compiled = torch.compile(loss, fullgraph=True)
    for mine, other in zip(torch.autograd.grad(compiled(*inputs), differentiable(inputs)), expected, strict=True):
        assert relative_error(mine, other) < 1e-5


def _model(**changes: Any) -> poco.POCO:
    torch.manual_seed(0)
    config = poco.POCOConfig(**changes)
    model = poco.POCO(config, [poco.SessionSpec("a", 300), poco.SessionSpec("b", 41)])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.cuda()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("changes", [{}, {"latent_session_embedding": True, "decoder_context": 32}], ids=str)
def test_an_inference_graph_is_the_model(dtype: torch.dtype, changes: dict[str, Any]) -> None:
    model = _model(**changes).to(dtype).eval()
    exact = _model(**changes).double().cpu().eval()
    exact.load_state_dict({n: t.double() if t.is_floating_point() else t for n, t in model.state_dict().items()})
    for session, windows in (("a", 1), ("b", 3)):
        graph = InferenceGraph(model, session, windows).warmup()
        for _ in range(2):
            x = torch.randn(windows, len(model.sessions[model.session_index(session)].units), 48, dtype=dtype)
            with torch.no_grad():
                expected = exact(x.double(), session)
                assert relative_error(model(x.cuda(), session).cpu(), expected) < inference.TOLERANCES[dtype]
            assert relative_error(graph(x).cpu(), expected) < inference.TOLERANCES[dtype]
    with pytest.raises(ShapeError, match="the graph takes"):
        graph(x[:1])


def _batch(windows: tuple[int, ...]) -> PackedBatch:
    """Windows of the sessions given by index."""
    units, first = (300, 41), (0, 300)
    index = torch.cat([torch.arange(first[s], first[s] + units[s]) for s in windows]).int()
    offsets = torch.tensor([0, *(units[s] for s in windows)]).cumsum(0).int()
    rows = int(offsets[-1])
    return PackedBatch(torch.randn(rows, 48), index, offsets, torch.tensor(windows), torch.randn(rows, 16))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_gradient_graph_is_a_backward_whatever_the_batch(set_to_none: bool) -> None:
    model = _model(ffn_dropout=0.0, latent_dropout=0.0).train()
    graph = GradientGraph(model, rows=1000, windows=4)
    for windows in ((0, 1, 0), (1,), (1, 1, 1, 1), (0, 0, 0)):
        batch = _batch(windows)
        model.zero_grad(set_to_none=set_to_none)  # after the backward below .grad is not the graph's own either way
        loss = float(graph.loss(batch))
        found = {n: p.grad.clone() for n, p in model.named_parameters()}
        model.zero_grad()
        expected = model.loss_packed(batch.to("cuda"))
        expected.backward()
        assert abs(loss - expected.item()) < 1e-5 * expected.item()
        for name, parameter in model.named_parameters():
            if parameter.grad.any():
                assert relative_error(found[name], parameter.grad) < 1e-4, name
            else:  # of a session that is not in the batch
                assert not found[name].any(), name
    with pytest.raises(ShapeError, match="the graph was made for 1000 rows in 4 windows"):
        graph.loss(_batch((0, 0, 0, 0)))


def test_a_gradient_graph_drops_anew_at_every_replay() -> None:
    graph = GradientGraph(_model().train(), rows=300, windows=1)
    batch = _batch((0,))
    losses = {float(graph.loss(batch)) for _ in range(4)}
    assert len(losses) == 4


def test_a_mask_is_that_of_the_core() -> None:
    for shape in ((40, 96), (33, 70), (1, 3), (0, 4)):
        found = dropout_mask(torch.tensor(-7, device="cuda"), *shape, 0.2, torch.float32)
        assert torch.equal(found.cpu(), dropout_mask(torch.tensor(-7), *shape, 0.2, torch.float32))
        later = dropout_mask(torch.tensor(-7, device="cuda"), shape[0], shape[1] + 3, 0.2, torch.float32, first=12)
        assert torch.equal(
            later.cpu(), dropout_mask(torch.tensor(-7), shape[0], shape[1] + 3, 0.2, torch.float32, first=12)
        )


def test_casts_at_once() -> None:
    tensors = [torch.randn(5, 4, device="cuda").mT.requires_grad_(), torch.randn(3, device="cuda"), torch.arange(3)]
    found = cast(tensors, [torch.bfloat16, torch.bfloat16, torch.int64])
    assert found[0].grad_fn is not None
    assert "_Cast" in found[0].grad_fn.name()
    for one, other in zip(found[:2], tensors[:2], strict=True):
        assert torch.equal(one, other.to(torch.bfloat16))
    assert found[2] is tensors[2]
    found[0].sum().backward()
    assert torch.equal(tensors[0].grad, torch.ones_like(tensors[0]))  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_kernels_run_where_their_tensors_are(by) -> None:
    parity.check_pool({}, torch.float32, by=by, device="cuda:1")
    parity.check_film({}, torch.float32, by=by, device="cuda:1")


def test_graphs_need_the_kernels() -> None:
    model = _model().eval()
    with use_backend("reference"), pytest.raises(BackendError, match="need the backend 'triton'"):
        InferenceGraph(model, "a")
    with pytest.raises(BackendError, match="on a CUDA device"):
        InferenceGraph(model.cpu(), "a")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_training_gets_better_and_repeats_itself(precision: str) -> None:
    recordings = poco.simulate(animals=2, units=60, frames=1200)
    cut = poco.split(recordings)
    config = poco.TrainConfig(steps=60, val_every=30, batch_size=16, device="cuda", precision=precision)
    scores, states = [], []
    for _ in range(2):
        torch.manual_seed(0)
        model = poco.POCO(poco.POCOConfig(), [poco.SessionSpec(r.session, r.unit_ids) for r in recordings])
        history = fit(model, cut, config)
        losses = [record["loss"] for record in history.records if "loss" in record]
        scores.append((losses[0], losses[-1]))
        states.append({n: t.cpu() for n, t in model.state_dict().items()})
    assert scores[0][1] < scores[0][0]
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
