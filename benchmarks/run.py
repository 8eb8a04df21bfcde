"""Runs a case: judges every contestant's answer, times those that are right, measures their memory."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks import memory
from benchmarks.cases import Case
from benchmarks.ceilings import Ceilings
from benchmarks.check import Answer, judge
from benchmarks.contestants import BFLOAT16, COMPILED, FLOAT32, Contestant, Entry, forget_compiled
from benchmarks.environment import memory_bytes
from benchmarks.inputs import Inputs, right_answer
from benchmarks.measure import load_average, take_turns
from benchmarks.work import held_bytes, work

_MEMORY_SHARE = 0.6  # of the memory that is free: what a contestant may be expected to need, as the estimate is rough
_RIGHT_ANSWER_BYTES = {False: 4_000, True: 12_000}  # of a row of the right answer, without and with gradients: measured
_LONGEST_CALL = 20.0  # seconds that a peer's products in bfloat16 may take a processor that has none
_MEMORY_ROWS = 4_096  # below this a call needs too little to tell


@dataclass(frozen=True)
class Options:
    """How much to measure: seconds for the times of a case, turns at least and at most, memory or not."""

    seconds: float
    least: int
    most: int
    memory: bool


def run_case(case: Case, contestants: Iterable[Contestant], ceilings: Ceilings, options: Options) -> dict[str, Any]:
    """The case's work, and for every contestant its status, error, seconds, memory and share of the roofline."""
    contestants = [c for c in contestants if c.takes(case)]
    if any(c.how == COMPILED for c in contestants):
        forget_compiled()
    inputs = Inputs.of(case)
    parameters = sum(p.numel() for p in inputs.model.parameters())
    works = {dtype: work(case, inputs.model.config, size, parameters) for dtype, size in ((FLOAT32, 4), (BFLOAT16, 2))}
    least_seconds = {dtype: ceilings.least_seconds(w.flops, w.bytes, dtype) for dtype, w in works.items()}
    result: dict[str, Any] = {
        "title": case.title,
        **asdict(case),
        "work": {dtype: asdict(w) for dtype, w in works.items()},
        "roofline_seconds": least_seconds,
        "load_average_before": load_average(),
    }
    reason = _lacks_memory(_RIGHT_ANSWER_BYTES[case.gradients] * case.windows * case.units)
    if reason:
        skipped = {"status": "skipped", "reason": f"the right answer {reason}"}
        return {**result, "results": [{"contestant": c.name, **asdict(c), **skipped} for c in contestants]}
    entries: dict[str, Entry] = {}
    right = right_answer(case, inputs)
    results = {}
    for c in contestants:
        lacks_time = _lacks_time(c, works[c.dtype].flops, ceilings)
        results[c.name] = _prepare(c, case, inputs, right, entries, lacks_time)
    del inputs, right
    times = take_turns({n: e.call for n, e in entries.items()}, options.seconds, options.least, options.most)
    for name, taken in times.items():
        contestant = entries[name].contestant
        results[name]["seconds"] = asdict(taken)
        results[name]["roofline"] = least_seconds[contestant.dtype] / taken.median
    ready = [entry.contestant for entry in entries.values()]
    del entries
    gc.collect()
    for contestant in ready if options.memory and case.windows * case.units >= _MEMORY_ROWS else ():
        grown = memory.missing() or memory.measure(contestant, case, torch.get_num_threads())
        results[contestant.name]["memory_bytes" if isinstance(grown, int) else "memory_missing"] = grown
    return {**result, "results": list(results.values())}


def _prepare(
    contestant: Contestant, case: Case, inputs: Inputs, right: Answer, entries: dict[str, Entry], lacks_time: str | None
) -> dict[str, Any]:
    """Makes the contestant ready and judges its answer; it is entered if that is right."""
    result: dict[str, Any] = {"contestant": contestant.name, **asdict(contestant), "status": "ok", "reason": ""}
    reason = contestant.missing()
    if reason:
        return {**result, "status": "missing", "reason": reason}
    need = held_bytes(contestant.form, case, inputs.model.config)
    if contestant.dtype == BFLOAT16:
        need *= 0.6  # not all of it is in half the bytes
    reason = lacks_time or _lacks_memory(need)
    if reason:
        return {**result, "status": "skipped", "reason": reason}
    try:
        entry = Entry(contestant, case, inputs)
        answer = entry.answer()
        if case.steps:
            entry.call()  # compiles what training needs, makes the optimiser's state
    except Exception as error:  # noqa: BLE001 - whatever a peer dies of is its result, and ends no other's
        words = " ".join(str(error).split())
        return {**result, "status": "failed", "reason": f"{type(error).__name__}: {words[:300]}"}
    verdict = judge(answer, right, contestant.dtype)
    result["error"] = {"output": verdict.output, "gradients": verdict.gradients}
    if verdict.wrong:
        return {**result, "status": "wrong", "reason": verdict.wrong}
    entries[contestant.name] = entry
    return result


def _lacks_time(contestant: Contestant, flops: float, ceilings: Ceilings) -> str | None:
    """Why a peer's products in bfloat16 are too slow on this processor; None where they are not."""
    if contestant.form == "poco" or contestant.dtype == FLOAT32 or flops <= _LONGEST_CALL * ceilings.bfloat16:
        return None
    return f"its products in bfloat16 take this processor about {flops / ceilings.bfloat16:.0f} s a call"


def _lacks_memory(need: float) -> str | None:
    """Why so many bytes are too many; None where they are not."""
    free = memory_bytes("MemAvailable")
    if free is None or need <= _MEMORY_SHARE * free:
        return None
    return f"needs about {need / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
