"""poco.graphs where there is no GPU; python_tests/kernels/test_gpu.py has the rest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

import poco
from poco import graphs
from poco.data.packed import PackedBatch
from poco.errors import BackendError, ConfigError
from poco.graphs import GradientGraph


def test_a_model_on_a_processor_has_no_graph() -> None:
    model = poco.POCO(poco.POCOConfig(), [poco.SessionSpec("a", 3)])
    assert not GradientGraph.serves(model)
    assert not GradientGraph.serves(torch.nn.Linear(1, 1))
    for make in (lambda: poco.InferenceGraph(model), lambda: GradientGraph(model, 3, 1)):
        with pytest.raises(BackendError, match="need a model on a CUDA device, this one is on cpu"):
            make()


def test_nothing_of_an_earlier_batch_stays_in_the_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_expect_triton", lambda model: None)
    model = poco.POCO(poco.POCOConfig(), [poco.SessionSpec("a", 3)])
    graph = GradientGraph(model, rows=7, windows=2)

    def batch(windows: int, value: float) -> PackedBatch:
        index, offsets = torch.arange(3).int().repeat(windows), torch.arange(windows + 1).int() * 3
        x, target = torch.full((3 * windows, 48), value), torch.full((3 * windows, 16), value)
        return PackedBatch(x, index, offsets, torch.zeros(windows, dtype=torch.int64), target)

    graph._fill(batch(2, float("nan")))
    graph._fill(batch(1, 1.0))
    assert graph._x.sum() == 3 * 48
    assert graph._target.sum() == 3 * 16
    assert graph._unit_index.tolist() == [0, 1, 2, 0, 0, 0, 0]
    assert graph._offsets.tolist() == [0, 3, 3, 7]
    assert graph._weight.flatten().tolist() == pytest.approx([1 / 48] * 3 + [0] * 4)


class Replays:
    """Adds 1 to the gradients, as a recorded backward would."""

    def __init__(self, gradients: list[torch.Tensor]) -> None:
        self.recorded = [*gradients]

    def replay(self) -> None:
        for gradient in self.recorded:
            gradient.add_(1)


class Recorded:
    """Calls again what was recorded."""

    def __init__(self, call: Callable[[], torch.Tensor]) -> None:
        self.replay = call


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of a model on the processor."""
    monkeypatch.setattr(graphs, "_expect_triton", lambda model: None)
    monkeypatch.setattr(graphs, "record", lambda call: (Recorded(call), call()))
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)


@pytest.mark.usefixtures("without_cuda")
def test_what_is_recorded_is_a_backward() -> None:
    config = poco.POCOConfig(ffn_dropout=0.0, latent_dropout=0.0, attention_dropout=0.0)
    model = poco.POCO(config, [poco.SessionSpec("a", 3), poco.SessionSpec("b", 2)]).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.latents.requires_grad_(False)
    index, offsets = torch.tensor([0, 1, 2, 3, 4]).int(), torch.tensor([0, 3, 5]).int()
    batch = PackedBatch(torch.randn(5, 48), index, offsets, torch.tensor([0, 1]), torch.randn(5, 16))
    model.loss_packed(batch).backward()
    expected = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    graph = GradientGraph(model, rows=7, windows=3)
    for times in (1, 2):
        graph.loss(batch)
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            if gradient is not None:
                torch.testing.assert_close(parameter.grad, times * gradient, rtol=1e-4, atol=1e-6)
    assert model.latents.grad is None


@pytest.mark.parametrize("first", [None, 3.0])
@pytest.mark.usefixtures("without_cuda")
def test_gradients_are_where_the_graph_adds_to(first: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = poco.POCO(poco.POCOConfig(), [poco.SessionSpec("a", 3)]).train()
    model.latents.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    monkeypatch.setattr(graphs, "record", lambda call: (Replays(graph._gradients), torch.zeros(())))
    graph = GradientGraph(model, rows=3, windows=1)
    offsets, session = torch.tensor([0, 3], dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
    batch = PackedBatch(torch.ones(3, 48), torch.arange(3).int(), offsets, session, torch.ones(3, 16))

    def after_a_call() -> set[float]:
        graph.loss(batch)
        assert model.latents.grad is None
        return {float(value) for p in parameters for value in p.grad.unique()}  # type: ignore[union-attr]

    if first is not None:
        for p in parameters:
            p.grad = torch.full_like(p, first)
    assert after_a_call() == {(first or 0) + 1}
    assert after_a_call() == {(first or 0) + 2}
    model.zero_grad()
    assert after_a_call() == {1}
    model.zero_grad(set_to_none=False)
    assert after_a_call() == {1}
    for p in parameters:  # an eager backward in between
        p.grad = torch.full_like(p, 7)
    assert after_a_call() == {8}
    parameters[0].grad = None
    assert after_a_call() == {1, 9}


def test_what_a_graph_is_made_of_is_what_the_op_takes() -> None:
    model = poco.POCO(poco.POCOConfig(latent_session_embedding=True), [poco.SessionSpec(n, 5) for n in "ab"]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        x, index = torch.randn(5, 48), torch.arange(5).int()
        table, *latents, shift = model.inference_inputs("b")
        found = poco.ops.inference(x, index, torch.tensor([0, 5]).int(), table, *latents, shift)
        torch.testing.assert_close(found, model(x[None], "b")[0])
    with pytest.raises(ConfigError, match="one FiLM layer"):
        poco.POCO(poco.POCOConfig(film_depth=2), [poco.SessionSpec("a", 3)]).inference_inputs(0)
