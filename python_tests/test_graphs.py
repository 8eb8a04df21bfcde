"""poco.graphs where there is no GPU; python_tests/kernels/test_gpu.py has the rest."""

from __future__ import annotations

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
