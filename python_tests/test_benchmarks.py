"""The benchmarks' own answers, counts and report; nothing here is timed."""

# ruff: noqa: E402

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from helpers.models import randomise
from helpers.needs import needs_core
from torch._subclasses import FakeTensorMode

import poco

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # at the end: benchmarks/ is only there, but poco is the package under test

from benchmarks import accuracy, crossover, gpu, gpu_command, gpu_table, kinds, online, sanitize, stream
from benchmarks.__main__ import main as benchmarks_main
from benchmarks.cases import ADAPTATION, BACKWARD, FORWARD, TRAINING, Case, plan
from benchmarks.ceilings import Ceilings
from benchmarks.check import judge
from benchmarks.contestants import BFLOAT16, CONTESTANTS
from benchmarks.inputs import Inputs, right_answer
from benchmarks.measure import take_turns
from benchmarks.published import PublishedPOCO
from benchmarks.run import Options, run_case
from benchmarks.two_passes import TwoPasses
from benchmarks.work import work

EAGER = [contestant for contestant in CONTESTANTS if contestant.how == "eager"]
OPTIONS = Options(seconds=0, least=1, most=1, memory=False)
CEILINGS = Ceilings(1e11, 2e11, 1e10)


def _small_model() -> poco.POCO:
    config = poco.POCOConfig(
        context=15, horizon=3, segment_length=5, latents=6, width=12, layers=2, heads=3, head_width=8, film_width=20
    )
    return randomise(poco.POCO(config, [poco.SessionSpec("a", 37)]))


@pytest.mark.parametrize("block", [None, 10])
def test_the_published_form_and_the_two_passes_agree(block: int | None) -> None:
    model = _small_model()
    x = torch.randn(2, 37, 15, dtype=torch.float64)
    ours, published = TwoPasses(model), PublishedPOCO(model).eval()
    published.block = block
    expected = model(x)
    torch.testing.assert_close(published(x), expected, rtol=1e-12, atol=1e-12)
    z = torch.randn(2, 6, 12, dtype=torch.float64)
    torch.testing.assert_close(published.encode(x), ours.encode(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(published.decode(x, z), ours.decode(x, z), rtol=1e-12, atol=1e-12)

    along = torch.randn_like(expected)
    expected.backward(along)
    right = {name: gradient.clone() for name, gradient in ours.gradients().items()}
    model.zero_grad()
    published(x).backward(along)
    found = published.gradients()
    assert set(found) == set(right)
    for name, gradient in right.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("case", [Case(part, BACKWARD, 2, 21) for part in ("latent_pool", "film_forecast", "model")])
def test_every_eager_contestant_is_right(case: Case) -> None:
    for each in (replace(case, mode=FORWARD), case):
        for result in run_case(each, EAGER, CEILINGS, OPTIONS)["results"]:
            assert result["status"] == "ok" or (result["form"] == "poco" and result["status"] == "missing"), result


def test_a_stream_takes_part_in_one_forecast_of_the_whole_model() -> None:
    streamed = [contestant for contestant in CONTESTANTS if contestant.how == "streamed"]
    for result in run_case(Case("model", FORWARD, 1, 21), streamed, CEILINGS, OPTIONS)["results"]:
        assert result["status"] in ("ok", "missing"), result
    for other in (Case("model", FORWARD, 2, 21), Case("model", BACKWARD, 1, 21), Case("latent_pool", FORWARD, 1, 21)):
        assert not any(contestant.takes(other) for contestant in streamed)


@pytest.mark.parametrize("mode", [TRAINING, ADAPTATION])
def test_a_step_is_right_and_fits_what_it_should(mode: str) -> None:
    case = Case("model", mode, 2, 21)
    assert {r["status"] for r in run_case(case, EAGER, CEILINGS, OPTIONS)["results"]} <= {"ok", "missing"}
    fitted = set(right_answer(case, Inputs.of(case))[1])
    embeddings = {"session_embeddings.0.units", "session_embeddings.0.session"}
    assert fitted == embeddings if mode == ADAPTATION else fitted > embeddings


def test_a_wrong_answer_gets_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TwoPasses.encode
    monkeypatch.setattr(TwoPasses, "encode", lambda self, x: 1.01 * right(self, x))
    reference = [contestant for contestant in EAGER if contestant.form == "reference"]
    (result,) = run_case(Case("latent_pool", FORWARD, 1, 21), reference, CEILINGS, OPTIONS)["results"]
    assert result["status"] == "wrong"
    assert "output is off by 1.0e-02" in result["reason"]
    assert "seconds" not in result


def test_peers_that_would_take_minutes_in_bfloat16_are_left_out_with_the_reason() -> None:
    low = [contestant for contestant in EAGER if contestant.precision == BFLOAT16]
    slow = Ceilings(float32=1e11, bfloat16=1e3, copy=1e10)
    results = run_case(Case("latent_pool", FORWARD, 1, 21), low, slow, OPTIONS)["results"]
    assert {r["status"] for r in results if r["form"] == "poco"} <= {"ok", "missing"}
    assert {r["status"] for r in results if r["form"] != "poco"} == {"skipped"}
    assert all("bfloat16 take this processor about" in r["reason"] for r in results if r["status"] == "skipped")
    assert slow.least_seconds(1e11, 0, "bfloat16") == 1, "float32 will do where bfloat16 is slower"


def test_gradients_are_judged_too() -> None:
    right = (torch.ones(4), {"a": torch.ones(3), "b": torch.ones(2)})
    assert not judge(right, right, "float32").wrong
    off = (right[0], {"a": torch.ones(3), "b": 1.01 * torch.ones(2)})
    assert "gradients are off" in judge(off, right, "float32").wrong
    assert not judge(off, right, "bfloat16").wrong
    assert "differ in name: b" in judge((right[0], {"a": torch.ones(3)}), right, "float32").wrong
    assert "output is off" in judge((torch.full((4,), float("nan")), right[1]), right, "float32").wrong
    assert "gradients are off" in judge((right[0], {"a": right[1]["a"], "b": right[0][:2] / 0}), right, "float32").wrong


def test_a_gradient_is_judged_by_its_own_norm() -> None:
    output = torch.ones(4)

    def wrong(dtype: str, small: float, off: float) -> str:
        right = {"large": torch.ones(4), "small": torch.full((4,), small)}
        return judge((output, {**right, "small": right["small"] * (1 + off)}), (output, right), dtype).wrong

    assert "off by 5.0e-01, more than 1e-04, in small" in wrong("float32", 2e-3, 0.5)  # 1e-3 of all together
    assert "more than 6e-02, in small" in wrong("bfloat16", 2e-3, 0.5)
    assert not wrong("bfloat16", 2e-3, 0.05)
    assert not wrong("bfloat16", 1e-5, 0.5)  # too small to matter
    assert "in small" in wrong("bfloat16", 1e-5, float("nan"))
    nothing = (output, {"a": torch.zeros(3)})
    assert not judge(nothing, nothing, "float32").wrong
    assert "gradients are off" in judge((output, {"a": torch.ones(3)}), nothing, "float32").wrong


def test_work_is_what_the_formulas_say() -> None:
    config = poco.POCOConfig()
    one, two = (work(Case("model", FORWARD, 1, units), config, 4, 0) for units in (1, 2))
    assert two.flops - one.flops == 819_200  # a unit of a window: 0.82 MFLOP
    assert two.bytes - one.bytes == 4 * (2 * 48 + 16 + 2 * 128)  # both passes read activity and embedding
    forward, backward = (work(Case("film_forecast", mode, 1, 1000), config, 4, 0) for mode in (FORWARD, BACKWARD))
    assert 2.8 < backward.flops / forward.flops < 3


def test_contestants_take_turns() -> None:
    seen: list[str] = []
    calls = {name: lambda name=name: seen.append(name) for name in "abc"}
    times = take_turns(calls, seconds=0, least=3, most=3)
    assert [t.turns for t in times.values()] == [3, 3, 3]
    turns = [name for before, name in zip(["", *seen], seen, strict=False) if before != name]
    assert "".join(turns) == "abc" * 4  # once to know how long a call takes, then the turns


def test_plan() -> None:
    assert [case.name for case in plan((), (128,), quick=True)].count("model") == 2
    assert not any(case.scaling for case in plan((), (128,), quick=True))
    assert {case.units for case in plan(("scaling",), (128,), quick=False)} >= {4_096, 1_000_000}


def test_the_command_writes_a_report(run_python, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ["cpu", "--quick", "--only", "latent_pool", "--sizes", "16", "--seconds", "0.01"]
    arguments += ["--settings", "none", "--threads", "1", "--json", str(report)]
    code = (
        f"import sys; sys.path.append({str(ROOT)!r}); from benchmarks.__main__ import main; sys.exit(main({arguments}))"
    )
    printed = run_python(code).stdout
    found = json.loads(report.read_text())
    assert found["environment"]["threads"] == 1
    assert [case["mode"] for case in found["cases"]] == [FORWARD, BACKWARD]
    for case in found["cases"]:
        assert case["results"][0]["contestant"] == "published float32"
        assert {"error", "seconds", "roofline"} <= set(case["results"][0])
        assert case["title"] in printed
    assert "published autocast" in report.with_suffix(".txt").read_text()


@pytest.mark.parametrize("wrong", ["--sizes 512 0", "--threads 0", "--seconds 0", "--seconds nan"])
def test_the_benchmark_of_streams_says_what_cannot_be(wrong: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["stream", *wrong.split()])
    with pytest.raises(SystemExit, match="2"):
        stream.main()
    assert wrong[2:].partition(" ")[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("wrong", ["--units 0", "--frames 0", "--rate nan", "--seconds -1"])
def test_the_benchmark_of_adapting_says_what_cannot_be(wrong: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["online", *wrong.split()])
    with pytest.raises(SystemExit, match="2"):
        online.main()
    assert f"argument {wrong.split(maxsplit=1)[0]}: must be" in capsys.readouterr().err


@needs_core
def test_an_adaptation_that_fails_ends_its_benchmark(monkeypatch, capsys) -> None:
    arguments = "--units 4 --frames 100 --steps 1 --seconds 0.1"
    monkeypatch.setattr(sys, "argv", ["online", *arguments.split()])
    assert online.main() == 1
    assert "python -m benchmarks.online: the adaptation failed: " in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_seconds_are_more_than_none(device: str, seconds: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmarks_main([device, "--seconds", seconds])
    assert f"argument --seconds: must be more than 0, got {seconds}" in capsys.readouterr().err


def test_cases_that_nobody_takes_are_left_out(run_python) -> None:
    arguments = ["cpu", "--quick", "--settings", "none", "--only", "training", "--contestants", "poco bfloat16"]
    code = f"import sys; sys.path.append({str(ROOT)!r}); from benchmarks.__main__ import main; print(main({arguments}))"
    done = run_python(code)
    assert done.stdout == "1\n"
    assert "none of the contestants takes part in these cases" in done.stderr


@needs_core
@pytest.mark.parametrize("norm", [1.0, float("nan")])
def test_a_stream_that_is_wrong_gets_no_time(norm: float, monkeypatch, capsys, tmp_path: Path) -> None:
    report = tmp_path / "new" / "stream.json"
    monkeypatch.setattr(sys, "argv", ["stream", "--sizes", "16", "--seconds", "0.01", "--json", str(report)])
    monkeypatch.setattr(stream, "onnx_session", MagicMock(side_effect=ImportError("no such package")))
    monkeypatch.setattr(np.linalg, "norm", lambda _: norm)  # of the error, and of what is right
    assert stream.main() == 1
    (found,) = json.loads(report.read_text())["cases"]
    assert found["milliseconds"] == {}
    assert set(found["wrong"]) == {"poco float32", "poco bf16", "on the ground, float32"}
    assert found["missing"] == {stream.PEER: "no such package"}
    assert f"poco bf16: wrong: off by {norm / norm:.1e}" in capsys.readouterr().out


@needs_core
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_what_needs_one_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["stream", "--sizes", "16", "--seconds", "0.01", "--device", "cuda"])
    assert stream.main() == 1
    assert "python -m benchmarks.stream --device cuda: " in capsys.readouterr().err
    assert sanitize.main() == benchmarks_main(["gpu"]) == 1
    assert capsys.readouterr().err.count("needs a GPU that PyTorch sees") == 2


def test_accuracy_is_written_cell_by_cell_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = poco.simulate(1, 6, 1200, seed=1)[0]
    np.savez(tmp_path / "waves.npz", activity=recording.activity, rate_hz=20.0)
    (tmp_path / "waves").mkdir()
    (tmp_path / "waves.npz").rename(tmp_path / "waves" / "one.npz")
    description = '[activity]\nkey = "activity"\norientation = "units x frames"\nrate_hz = 20\n'
    (tmp_path / "waves" / "dataset.toml").write_text(f'name = "waves"\nfiles = ["*.npz"]\n{description}')
    out = tmp_path / "cells"
    arguments = [str(tmp_path / "waves"), "--out", str(out), "--protocols", "leak-free", "--seeds", "2"]
    arguments += ["--only", "ridge", "ground", "level-ground"]
    assert accuracy.main(arguments) == 0
    files = sorted(path.name for path in out.iterdir())
    assert files == [f"waves--leak-free--0--{name}.json" for name in ("ground", "level-ground", "ridge")]
    written = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert accuracy.main(arguments) == 0
    assert written == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    cell = json.loads((out / "waves--leak-free--0--ridge.json").read_text())
    errors = sum(cell["window_error"]) / sum(cell["copy_window_error"])
    assert cell["score"] == pytest.approx(1 - errors, rel=1e-4)
    for name in ("mlp", "grounded"):  # as if they had been fitted too
        other = {**cell, "forecaster": name, "score": cell["score"] + (0.1 if name == "mlp" else 0.0)}
        (out / f"waves--leak-free--0--{name}.json").write_text(json.dumps(other))
    assert accuracy.main(["--table", "--out", str(tmp_path / "empty")]) == 2
    assert "there are no scores in" in capsys.readouterr().err
    assert accuracy.main(["--table", "--out", str(out), "--json", str(tmp_path / "report.json")]) == 0
    printed = capsys.readouterr().out
    assert "waves, leak-free, seed 0: mlp -0.1000" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    (entry,) = report["cells"]
    assert entry["forecasters"]["ridge"]["ahead"] == [[0.0, [0.0, 0.0]]]  # too few windows


def test_recordings_of_all_kinds_can_be_cut_and_are_the_same_again() -> None:
    made, again = dict(kinds.recordings(100)), dict(kinds.recordings(100))
    assert list(made) == list(kinds.KINDS)
    for kind, recordings in made.items():
        for one, other in zip(recordings, again[kind], strict=True):
            np.testing.assert_array_equal(one.activity, other.activity)
        poco.split(recordings)
    with pytest.raises(SystemExit):
        kinds.main(["--out", "cells", "--only", "nonsense"])


def test_a_shortened_hour_keeps_its_test_part() -> None:
    whole = crossover.hour()
    shorter = crossover.shortened(whole, minutes=4)
    ((first, stop),) = shorter.segments["train"][0]
    assert stop - first == 4 * 60 * crossover.RATE
    assert stop == whole.segments["train"][0][0][1]
    assert shorter.segments["test"] == whole.segments["test"]
    inside = whole.recordings[0].activity[:, first:stop]
    np.testing.assert_allclose(shorter.mean[0], inside.mean(1), atol=1e-5)


def test_the_committed_figures_of_a_gpu_print_and_draw(tmp_path: Path) -> None:
    report = json.loads((ROOT / "benchmarks" / "results" / "gpu.json").read_text())
    text = gpu_table.report_text(report)
    assert text == (ROOT / "benchmarks" / "results" / "gpu.txt").read_text()
    gpu_table.draw(report, tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").stat().st_size > 1000


def test_contestants_on_a_gpu_take_the_cases_meant_for_them() -> None:
    names = [c.name for c in gpu.contestants()]
    assert len(set(names)) == len(names)
    assert {"published float32 compiled graph", "poco bfloat16 graph", "poco tf32"} <= set(names)
    for case in gpu.plan(quick=False):
        takers = {c.name for c in gpu.contestants() if c.takes(case)}
        assert ("published float32" in takers) != case.scaling
        assert "poco float32 graph" in takers
        assert ("poco autocast" in takers) == case.gradients


@pytest.mark.parametrize(("factor", "wrong"), [(1, False), (2, True)])
def test_a_training_step_as_a_graph_is_judged_by_a_graph(factor: float, wrong: bool, monkeypatch) -> None:
    made = []

    class Graph:
        def __init__(self, call: Callable[[], torch.Tensor]) -> None:
            self.call = call

        def replay(self) -> None:
            self.output.copy_(self.call().detach())
            for parameter in entry.fitted:
                if parameter.grad is not None:
                    parameter.grad *= factor

    def record(call: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        graph = Graph(call)
        graph.output = torch.full_like(call().detach(), float("nan"))
        made.append(entry.part.training)
        return graph, graph.output

    monkeypatch.setattr(gpu, "record", record)
    case = Case("model", TRAINING, 2, 21)
    inputs = Inputs.of(case)
    entry = gpu.Entry(gpu.Contestant("published", "float32", graph=True), case, inputs)
    answer = entry.answer()
    assert made == [False]
    assert ("gradients are off" in judge(answer, right_answer(case, inputs), "float32").wrong) == wrong


def test_a_contestant_on_a_gpu_that_cannot_be_made_ready_ends_no_others(monkeypatch) -> None:
    def none(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu, "Entry", none)
    case = Case("model", FORWARD, 1, 21)
    right = torch.zeros(1), {}
    entries: dict[str, gpu.Entry] = {}
    for contestant in gpu.contestants()[:2]:
        result = gpu._prepare(contestant, case, Inputs.of(case), right, entries)
        assert (result["status"], result["reason"]) == ("failed", "RuntimeError: out of memory")
    assert not entries


@pytest.mark.parametrize(
    ("printed", "failed"),
    [
        ("ERROR SUMMARY: 0 errors", False),
        ("ERROR SUMMARY: 10 errors", True),
        ("RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", False),
        ("RACECHECK SUMMARY: 3 hazards displayed (3 errors, 0 warnings)", True),
        ("no such line", True),
    ],
)
def test_what_a_memory_checker_finds_is_a_failure(printed: str, failed: bool) -> None:
    command = [sys.executable, "-c", f"print('========= {printed}')"]
    assert gpu_command.check(command, r"SUMMARY: (.*)")[1] == failed


@pytest.mark.parametrize(
    ("dtype", "taken"), [("bfloat16", torch.bfloat16), ("float32", torch.float32), ("tf32", torch.float32)]
)
@pytest.mark.parametrize("kernel", ["latent_pool", "film_forecast"])
def test_every_precision_is_tuned_in_its_own(kernel: str, dtype: str, taken: torch.dtype, monkeypatch) -> None:
    tune = pytest.importorskip("benchmarks.tune", exc_type=ImportError)
    module = pytest.importorskip(f"poco.kernels.{kernel}", exc_type=ImportError)
    matmul, called = torch.backends.cuda.matmul, []
    monkeypatch.setattr(module, kernel, lambda *inputs: called.append((inputs[0].dtype, matmul.allow_tf32)))
    try:
        with FakeTensorMode():  # without a GPU
            tune._op(kernel, dtype, 512)()
    finally:
        matmul.allow_tf32 = False
    assert called == [(taken, dtype == "tf32")]


@pytest.mark.parametrize("command", ["benchmarks gpu", "benchmarks.tune"])
def test_without_a_gpu_the_command_says_so(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    if command == "benchmarks.tune":
        tune = pytest.importorskip("benchmarks.tune", exc_type=ImportError)  # imports Triton
        assert tune.main() == 1
    else:
        assert gpu_command.main(["--quick"]) == 1
    assert f"python -m {command} needs a GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("cpu --quick --contestants nonsense", "there is no 'nonsense'; there are 'published float32'"),
        ("gpu --quick --contestants nonsense", "there is no 'nonsense'; there are 'published float32'"),
        ("cpu --quick --sizes 0", "argument --sizes: must be at least 1, got 0"),
        ("cpu --quick --sizes=-3", "argument --sizes: must be at least 1, got -3"),
        ("cpu --quick --threads 0", "argument --threads: must be at least 1, got 0"),
    ],
)
def test_the_commands_say_what_cannot_be(wrong: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmarks_main(wrong.split())
    assert says in capsys.readouterr().err
