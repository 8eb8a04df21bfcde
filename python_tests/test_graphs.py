"""poco.graphs where there is no GPU; python_tests/kernels/test_gpu.py has the rest."""

from __future__ import annotations

import pytest
import torch

import poco
from poco.errors import BackendError, ConfigError
from poco.graphs import GradientGraph


def test_a_model_on_a_processor_has_no_graph() -> None:
    model = poco.POCO(poco.POCOConfig(), [poco.SessionSpec("a", 3)])
    assert not GradientGraph.serves(model)
    assert not GradientGraph.serves(torch.nn.Linear(1, 1))
    for make in (lambda: poco.InferenceGraph(model), lambda: GradientGraph(model, 3, 1)):
        with pytest.raises(BackendError, match="need a model on a CUDA device, this one is on cpu"):
            make()


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
