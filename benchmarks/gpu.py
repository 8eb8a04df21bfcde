"""On a GPU: what the passes, the model and a training step cost beside the published form, each also as a graph."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

import poco
from benchmarks.cases import FORWARD, SCALING_SIZES, STEP_UNITS, STEP_WINDOWS, TRAINING, Case
from benchmarks.ceilings import Ceilings
from benchmarks.check import Answer, judge
from benchmarks.contestants import AUTOCAST, BFLOAT16, COMPILED, EAGER, FLOAT32, Part, forget_compiled
from benchmarks.inputs import Inputs, right_answer
from benchmarks.measure import Times, take_turns
from benchmarks.published import PublishedPOCO
from benchmarks.two_passes import TwoPasses
from benchmarks.work import work
from poco.graphs import InferenceGraph, record

TF32 = "tf32"  # float32 with one TF32 product for each
SIZES = (512, 71_721, 1_000_000)
COMPILED_SIZES = (71_721,)


@dataclass(frozen=True)
class Contestant:
    """A way to compute a case.

    Attributes:
        form: ``published`` or ``poco``.
        precision: FLOAT32, TF32, AUTOCAST (float32 parameters, products in bfloat16), BFLOAT16 (all in bfloat16).
        how: EAGER or COMPILED.
        graph: whether the call is recorded as a CUDA graph and replayed.
    """

    form: str
    precision: str
    how: str = EAGER
    graph: bool = False

    @property
    def name(self) -> str:
        """What tables call it."""
        return " ".join([self.form, self.precision, *([self.how] * (self.how != EAGER)), *(["graph"] * self.graph)])

    @property
    def dtype(self) -> str:
        """The precision of its products."""
        return FLOAT32 if self.precision in (FLOAT32, TF32) else BFLOAT16

    def takes(self, case: Case) -> bool:
        """Whether the case is meant for it."""
        if case.scaling:
            return self.form == "poco" and self.graph and self.precision != TF32
        if self.how == COMPILED and case.windows == 1 and case.units not in COMPILED_SIZES:
            return False
        if case.gradients:
            return self.precision != BFLOAT16
        if self.how == COMPILED and (case.part != "model" or self.precision == AUTOCAST):
            return False
        return not (self.form == "poco" and self.precision == AUTOCAST)


def contestants() -> list[Contestant]:
    """All of them."""
    peers = [
        Contestant("published", precision, how, graph)
        for how in (EAGER, COMPILED)
        for precision in (FLOAT32, TF32, AUTOCAST, BFLOAT16)
        for graph in (False, True)
        if not (how == COMPILED and precision == TF32)
    ]
    ours = [
        Contestant("poco", precision, graph=graph)
        for precision in (FLOAT32, TF32, AUTOCAST, BFLOAT16)
        for graph in (False, True)
    ]
    return peers + ours


def plan(quick: bool) -> list[Case]:
    """The cases."""
    sizes = (512,) if quick else SIZES
    cases = [Case(part, FORWARD, 1, n) for part in ("latent_pool", "film_forecast", "model") for n in sizes]
    cases.append(Case("model", TRAINING, 4 if quick else STEP_WINDOWS, STEP_UNITS))
    return cases + [Case("model", FORWARD, 1, n, scaling=True) for n in (() if quick else SCALING_SIZES)]


class Entry:
    """A contestant made ready for a case."""

    def __init__(self, contestant: Contestant, case: Case, inputs: Inputs) -> None:
        self.contestant, self.case, self.inputs = contestant, case, inputs
        low = contestant.precision == BFLOAT16
        model = copy.deepcopy(inputs.model) if low or case.steps else inputs.model
        self.x, self.z = inputs.x, inputs.z
        if low:
            model, self.x, self.z = model.bfloat16(), self.x.bfloat16(), self.z.bfloat16()
        self.model = model
        form = PublishedPOCO(model) if contestant.form == "published" else TwoPasses(model)
        self.part = Part(form, case.part).eval()
        for parameter in self.part.parameters():
            parameter.requires_grad_(case.gradients)
        self.fitted = [p for p in self.part.parameters() if p.requires_grad]
        self.run: Callable[..., Any] = self.part
        if contestant.how == COMPILED:
            self.run = torch.compile(self.part, fullgraph=True, dynamic=False)
        self.optimiser = (
            torch.optim.AdamW(self.fitted, lr=3e-4, weight_decay=1e-4, amsgrad=True, fused=True, capturable=True)
            if case.steps
            else None
        )
        self.call: Callable[[], Any] = self.compute

    @contextmanager
    def _context(self) -> Any:
        with ExitStack() as stack:
            if self.contestant.form == "poco":
                stack.enter_context(poco.ops.use_backend("triton"))
            if self.contestant.precision == AUTOCAST:
                # Its cache would outlive a recording.
                stack.enter_context(torch.autocast("cuda", torch.bfloat16, cache_enabled=not self.contestant.graph))
            if not self.case.gradients:
                stack.enter_context(torch.no_grad())
            before = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = self.contestant.precision == TF32
            try:
                yield
            finally:
                torch.backends.cuda.matmul.allow_tf32 = before

    def compute(self) -> Tensor:
        """Once, without a graph: the forecast, or a whole training step."""
        with self._context():
            if not self.case.gradients:
                return self.run(self.x, self.z)  # type: ignore[no-any-return]
            for parameter in self.fitted:
                parameter.grad = None
            output: Tensor = self.run(self.x, self.z)
            nn.functional.mse_loss(output.float(), self.inputs.target).backward()
            if self.part.training:
                assert self.optimiser is not None
                torch.nn.utils.clip_grad_norm_(self.fitted, 5.0)
                self.optimiser.step()
        return output

    def answer(self) -> Answer:
        """The output, and gradients by name, by a graph if that is what is timed.

        Without dropout and optimiser: of a training step as a graph this is another graph, recorded alike.
        """
        self.part.eval()
        self._make()
        output = self.call().detach().float().clone()
        gradients = self.part.form.gradients() if self.case.gradients else {}
        return output, {name: gradient.detach().float().clone() for name, gradient in gradients.items()}

    def ready(self) -> None:
        """Makes ``call`` what is timed."""
        self.part.train(self.case.steps)
        self._make()

    def _make(self) -> None:
        """Makes ``call`` the computation in the mode that the part is in, recorded if that is how it is timed."""
        self.call = self.compute
        if not self.contestant.graph:
            self.compute()
            return
        if self.contestant.form == "poco" and self.case.part == "model" and not self.case.gradients:
            with self._context():
                graph = InferenceGraph(self.model, 0, self.case.windows).warmup()
            graph.x.copy_(self.x)
            self.call = graph.replay
            return
        recorded, output = record(self.compute)

        def replay() -> Tensor:
            recorded.replay()
            return output

        self.call = replay


def run_case(
    case: Case,
    every: Iterable[Contestant],
    ceilings: Mapping[str, Ceilings],
    seconds: float,
) -> dict[str, Any]:
    """The case's work, and for every contestant its status, error, seconds, memory and share of the roofline."""
    forget_compiled()
    inputs = Inputs.of(case, "cuda")
    parameters = sum(p.numel() for p in inputs.model.parameters())
    works = {dtype: work(case, inputs.model.config, size, parameters) for dtype, size in ((FLOAT32, 4), (BFLOAT16, 2))}
    result: dict[str, Any] = {"title": case.title, **asdict(case), "work": {d: asdict(w) for d, w in works.items()}}
    right = right_answer(case, inputs)
    results: dict[str, dict[str, Any]] = {}
    entries: dict[str, Entry] = {}
    for c in (c for c in every if c.takes(case)):
        results[c.name] = _prepare(c, case, inputs, right, entries)
        gc.collect()
        torch.cuda.empty_cache()
    calls = {name: entry.call for name, entry in entries.items()}
    for name, taken in take_turns(calls, seconds, 3, 50, torch.cuda.synchronize).items():
        contestant = entries[name].contestant
        ceiling = ceilings[TF32 if contestant.precision == TF32 else "default"]
        w = works[contestant.dtype]
        results[name]["seconds"] = asdict(taken)
        results[name]["latency_seconds"] = asdict(latency(entries[name].call))
        results[name]["roofline"] = ceiling.least_seconds(w.flops, w.bytes, contestant.dtype) / taken.median
    return {**result, "results": list(results.values())}


def _prepare(
    contestant: Contestant, case: Case, inputs: Inputs, right: Answer, entries: dict[str, Entry]
) -> dict[str, Any]:
    """Makes the contestant ready, judges its answer and measures its memory; it is entered if the answer is right."""
    result: dict[str, Any] = {"contestant": contestant.name, **asdict(contestant), "status": "ok", "reason": ""}
    try:
        entry = Entry(contestant, case, inputs)
        verdict = judge(entry.answer(), right, BFLOAT16 if contestant.precision == TF32 else contestant.dtype)
        if case.gradients:
            entry.ready()
        result["error"] = {"output": verdict.output, "gradients": verdict.gradients}
        if verdict.wrong:
            return {**result, "status": "wrong", "reason": verdict.wrong}
        result["memory_bytes"] = _growth(entry)
    except Exception as error:  # noqa: BLE001 - whatever a peer dies of is its result, and ends no other's
        words = " ".join(str(error).split())[:300]
        return {**result, "status": "failed", "reason": f"{type(error).__name__}: {words}"}
    entries[contestant.name] = entry
    return result


def _growth(entry: Entry) -> int:
    """Bytes that a call without a graph needs at its peak on top of what is there before it."""
    entry.compute()
    for parameter in entry.fitted:
        parameter.grad = None
    torch.cuda.synchronize()
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    entry.compute()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def latency(call: Callable[[], object]) -> Times:
    """Seconds from a call to its result, one call at a time."""

    def wait() -> None:
        call()
        torch.cuda.synchronize()

    return take_turns({"one": wait}, 0.05, 3, 50)["one"]
