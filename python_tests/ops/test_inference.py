"""Inference by the whole model as one op: the reference, the CPU kernels, the torch op."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch
from helpers import inference as helper
from helpers import relative_error
from helpers.inference import double, inputs
from helpers.needs import needs_kernels
from helpers.passes import replaced

from poco import core
from poco.errors import BackendError, ShapeError
from poco.ops import checks, inference, kernels_serve, model_reference, use_backend
from poco.ops.parameters import (
    LAYER_TENSORS,
    MODEL_TENSORS,
    LatentParameters,
    ModelParameters,
    latent_names,
    model_names,
)

SMALL: dict[str, Any] = {
    "counts": (3, 0, 5),
    "width": 8,
    "head_width": 4,
    "heads": 2,
    "hidden": 5,
    "latents": 3,
    "film": 9,
    "horizon": 4,
}


def test_rotation_written_out() -> None:
    frequencies = torch.tensor([0.3, 2.0])
    x = torch.arange(1.0, 9.0, dtype=torch.float64)
    turn = model_reference.turn_of(torch.tensor(5.0), frequencies, x.dtype)
    turned = model_reference.rotate(x, turn)
    for pair, frequency in enumerate(frequencies.double().tolist()):
        z = complex(x[2 * pair], x[2 * pair + 1]) * complex(math.cos(5 * frequency), math.sin(5 * frequency))
        assert turned[2 * pair].item() == pytest.approx(z.real, abs=1e-12)
        assert turned[2 * pair + 1].item() == pytest.approx(z.imag, abs=1e-12)
    assert torch.equal(turned[4:], x[4:])
    torch.testing.assert_close(model_reference.rotate(turned, turn, back=True), x)


def test_turns_are_kept_as_long_as_their_frequencies() -> None:
    def turns(frequencies: torch.Tensor) -> model_reference.Turns:
        return model_reference.turns_of(3, 2, 12, frequencies, torch.float32)

    frequencies = torch.tensor([0.3, 2.0])
    with torch.inference_mode():
        first = turns(frequencies)
    assert turns(frequencies) is first
    assert not first.own.along.is_inference()  # a gradient may be taken through it
    torch.testing.assert_close(first.reading.along[1, 2, 2].item(), math.cos((6 - 8) * 2.0), rtol=0, atol=1e-6)
    before = len(model_reference._KEPT)
    frequencies.mul_(2)
    torch.testing.assert_close(turns(frequencies), turns(torch.tensor([0.6, 4.0])))
    frequencies = torch.tensor([1.0, 2.0])
    gc.collect()
    assert len(model_reference._KEPT) < before
    with torch.inference_mode():
        passing = torch.tensor([0.6, 4.0])
        assert turns(passing) is not turns(passing)


@needs_kernels
@pytest.mark.parametrize("dtype", helper.TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", helper.SHAPES, ids=str)
def test_kernels_are_the_reference(shape: dict[str, Any], dtype: torch.dtype) -> None:
    helper.check(shape, dtype)


@needs_kernels
@pytest.mark.parametrize("t_max", [0.001, 1e5])
def test_long_and_short_periods(t_max: float) -> None:
    """Angles of many million radians, and next to none."""
    helper.check({**SMALL, "t_max": t_max}, torch.float32)


@needs_kernels
@pytest.mark.parametrize("dtype", helper.TOLERANCES, ids=str)
def test_results_do_not_depend_on_threads(threads, dtype: torch.dtype) -> None:
    for shape in ({"counts": (700,)}, {"counts": (40,) * 7, "own": True}, {"counts": (3,) * 30}):
        arguments = inputs(**shape, dtype=dtype)
        threads(1)
        expected = inference(*arguments)
        for count in (2, 3, 7):
            threads(count)
            for _ in range(5):
                assert torch.equal(inference(*arguments), expected)


@needs_kernels
def test_windows_do_not_depend_on_each_other() -> None:
    arguments = inputs(counts=(5,) * 11)
    broken = replaced(arguments, 0, arguments[0].clone())
    broken[0][4 * 5 + 2, 7] = float("nan")
    found, expected = inference(*broken), inference(*arguments)
    window = torch.arange(55) // 5 == 4
    assert found[window].isnan().all()  # through the latents
    assert torch.equal(found[~window], expected[~window])


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_any_layout(dtype: torch.dtype) -> None:
    arguments = inputs(**SMALL, dtype=dtype)
    exact = model_reference.inference(*double(arguments))
    odd = [t.T.contiguous().T if t.ndim == 2 else t for t in arguments[6]]
    for parameters in (arguments[6], odd, [*arguments[6][:-1], arguments[6][-1].float()]):
        mine = inference(*replaced(arguments, 6, parameters))
        assert mine.dtype == dtype
        assert relative_error(mine, exact) < 2e-2
    wide = inference(*replaced(arguments, 0, arguments[0].float()))
    assert wide.dtype == torch.float32
    assert relative_error(wide, exact) < 2e-2


def test_float64_goes_to_the_reference() -> None:
    arguments = inputs(**SMALL, dtype=torch.float64)
    forecast = inference(*arguments)
    assert forecast.dtype == torch.float64
    with use_backend("reference"):
        assert torch.equal(inference(*arguments), forecast)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype: torch.dtype) -> None:
    arguments = inputs(**SMALL, own=True, dtype=dtype)
    for shift in ((), (torch.ones(8, dtype=dtype),)):
        torch.library.opcheck(torch.ops.poco.inference.default, (*arguments, *shift))


def test_compiles_whole() -> None:
    arguments = inputs(**SMALL)
    compiled = torch.compile(inference, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), inference(*arguments))


def test_autocast_takes_bfloat16() -> None:
    arguments = inputs(**SMALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = inference(*arguments)
    assert low.dtype == torch.bfloat16
    x, unit_index, offsets, unit_table, initial, frequencies, parameters, *rest = arguments
    parameters = [parameter.bfloat16() for parameter in parameters]
    tables = (unit_table.bfloat16(), initial.bfloat16())
    assert torch.equal(low, inference(x.bfloat16(), unit_index, offsets, *tables, frequencies, parameters, *rest))


@needs_kernels
def test_where_the_op_is_used() -> None:
    one, trained = torch.ones(1), torch.ones(1, requires_grad=True)
    assert kernels_serve((one,), one)
    assert not kernels_serve((one, trained), one)
    with torch.no_grad():
        assert kernels_serve((one, trained), one)
        with use_backend("reference"):
            assert not kernels_serve((one,), one)
    assert not kernels_serve((one.double(),), one.double())


@pytest.mark.parametrize(
    ("position", "value", "says"),
    [
        (0, torch.randn(8, 50), "the context 50 must be a multiple of the segment length 16"),
        (0, torch.ones(8, 48, dtype=torch.int64), "floating point"),
        (1, torch.full((8,), 50, dtype=torch.int32), r"unit_index must be in 0\.\.49, got 50\.\.50"),
        (2, torch.tensor([0, 3, 3, 9], dtype=torch.int32), "window_offsets must rise from 0 to the 8 rows"),
        (3, torch.randn(50, 9), r"initial must be \[1 or W, Q, 9\]"),
        (4, torch.randn(2, 3, 8), "initial must be for 1 or 3 windows, got 2"),
        (4, torch.randn(1, 0, 8), r"there must be at least one latent, initial is \[1, 0, 8\]"),
        (5, torch.ones(2), r"parameters\[6\] \(query_weight\) must be \[8, 8\], got \[4, 8\]"),
        (6, [], "parameters must be 40 tensors and 11 for each layer, got 0"),
        (6, [torch.ones(1), None], r"parameters\[1\] must be a tensor, got NoneType"),
        (7, 0, "heads must be at least 1, got 0"),
        (8, float("inf"), "inference: eps must be a number above 0, got inf"),
        (7, 3, r"parameters\[19\] \(latents\.layers\[0\]\.query_key_value_weight\) must be \[36, 8\], got \[24, 8\]"),
    ],
)
def test_says_what_does_not_fit(position: int, value: Any, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        inference(*replaced(inputs(**SMALL), position, value))


def test_names_are_those_of_the_parameters() -> None:
    found = ModelParameters.of(model_names(2))
    assert len(model_names(2)) == MODEL_TENSORS + 2 * LAYER_TENSORS
    assert found.key_weight == "key_weight"
    assert found.out_bias == "out_bias"
    assert found.unit[-1] == "unit.scale_bias"
    latents = LatentParameters.of(latent_names(2))
    assert latents.read_ffn.in_weight == "read_ffn.in_weight"
    assert latents.layers[1].output_bias == "layers[1].output_bias"
    assert latents.write_output_weight == "write_output_weight"
    assert found.latents == tuple(f"latents.{name}" for name in latents.flat())


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU, where numpy cannot look."""

    device = torch.device("cuda")  # type: ignore[assignment]

    def numpy(self, *, force: bool = False) -> Any:
        raise AssertionError


@pytest.mark.parametrize(
    ("position", "value", "says"),
    [
        (1, torch.full((8,), 50, dtype=torch.int32), r"unit_index must be in 0\.\.49, got 50\.\.50"),
        (1, torch.full((8,), -1, dtype=torch.int32), r"unit_index must be in 0\.\.49, got -1\.\.-1"),
        (2, torch.tensor([0, 3, 3, 7], dtype=torch.int32), "window_offsets must rise from 0 to the 8 rows"),
        (2, torch.tensor([0, 5, 3, 8], dtype=torch.int32), "window_offsets must rise from 0 to the 8 rows"),
    ],
)
def test_indices_on_a_gpu_are_looked_at_on_request(
    monkeypatch: pytest.MonkeyPatch, position: int, value: Any, says: str
) -> None:
    arguments = [t.as_subclass(OnGpu) if isinstance(t, torch.Tensor) else t for t in inputs(**SMALL)]
    arguments[6] = [t.as_subclass(OnGpu) for t in arguments[6]]
    wrong = [value.as_subclass(OnGpu) if i == position else t for i, t in enumerate(arguments)]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    for wish in ("", "0"):
        monkeypatch.setenv("POCO_CHECK", wish)
        checks.inference(*wrong[:9])
    monkeypatch.setenv("POCO_CHECK", "1")
    checks.inference(*arguments[:9])
    with pytest.raises(ShapeError, match=says):
        checks.inference(*wrong[:9])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    checks.inference(*wrong[:9])


def test_says_what_does_not_fit_of_the_shift() -> None:
    with pytest.raises(ShapeError, match=r"unit_shift must be \[8\], got \[9\]"):
        inference(*inputs(**SMALL), unit_shift=torch.ones(9))


@needs_kernels
def test_the_core_counts_parameters() -> None:
    numbers = dict.fromkeys(
        (
            *(
                "rows",
                "windows",
                "units",
                "initial_windows",
                "segments",
                "segment_length",
                "width",
                "latents",
                "threads",
            ),
            *("head_width", "heads", "ffn_width", "layers", "film_width", "horizon", "eps"),
            *("x", "unit_index", "window_offsets", "unit_table", "initial", "frequencies", "forecast"),
        ),
        0,
    )
    with pytest.raises(BackendError, match="inference: 0 layers have 40 parameters, not 2"):
        core.run_kernel("inference_float32", {**numbers, "parameters": [0, 0]})
