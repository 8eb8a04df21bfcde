"""The figures of a GPU as text for people, and drawn: time against population, with the roofline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.table import aligned, in_bytes, milliseconds, published_eager, times

_COLUMNS = ("", "ms", ".2 to .8", "latency", "published", "best alike", "best", "roofline", "memory", "error")
_LEGEND = (
    "ms: of one call among many, median of the turns; latency: of one call that is waited for;",
    "published: how many times the speed of the published form in eager float32 without a graph;",
    "best alike: of the fastest published form whose products are in the same precision, graphs among them;",
    "best: of the fastest published form of all;",
    "roofline: share of the speed that the least work allows at the ceilings, those of a large product and a large",
    "copy by the library: above 100 % the kernels beat it, or data stay in the caches;",
    "memory: peak of a call without graph;",
    "error: of the output, relative, against the published form in float32, with gradients the larger of the two.",
)


def header(report: dict[str, Any]) -> str:
    """Where and with what the figures were taken, the ceilings, and what was checked."""
    e, g = report["environment"], report["environment"]["gpu"]
    c, t = report["ceilings"]["default"], report["ceilings"]["tf32"]
    versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items() if name != "platform")
    ceilings = (
        f"ceilings: {c['float32'] / 1e12:.1f} TFLOP/s in float32, {t['float32'] / 1e12:.0f} with TF32, "
        f"{c['bfloat16'] / 1e12:.0f} in bfloat16, copy {c['copy'] / 1e12:.2f} TB/s"
    )
    return "\n".join(
        [
            f"{e['date']}, commit {e['commit'][:12]}{' with changes' if e['dirty'] else ''}",
            f"{g['name']}, {g['processors']} multiprocessors, {in_bytes(g['memory_bytes'])}, driver {g['driver']}",
            versions,
            f"Triton {g['triton']}, CUDA {g['cuda']}",
            ceilings,
            *[f"{name}: {outcome}" for name, outcome in report.get("checks", {}).items()],
            "",
            *_LEGEND,
        ]
    )


def _best(case: dict[str, Any], alike: str | None) -> float | None:
    peers = (r for r in case["results"] if r["form"] == "published" and "seconds" in r)
    kinds = {"float32": ("float32",), "tf32": ("float32", "tf32"), "low": ("autocast", "bfloat16")}
    return min((r["seconds"]["median"] for r in peers if alike is None or r["precision"] in kinds[alike]), default=None)


def case_table(case: dict[str, Any]) -> str:
    """One case."""
    w = case["work"]["float32"]
    rows: list[tuple[str, ...]] = [_COLUMNS]
    notes = []
    eager = published_eager(case)
    for r in case["results"]:
        if "seconds" not in r:
            notes.append(f"  {r['contestant']}: {r['status']}: {r['reason']}")
            continue
        s, alike = r["seconds"], r["precision"] if r["precision"] in ("float32", "tf32") else "low"
        rows.append(
            (
                r["contestant"],
                milliseconds(s["median"]),
                f"{milliseconds(s['low'])} to {milliseconds(s['high'])}",
                milliseconds(r["latency_seconds"]["median"]),
                times(eager, s["median"]),
                times(_best(case, alike), s["median"]),
                times(_best(case, None), s["median"]),
                f"{100 * r['roofline']:.0f} %",
                in_bytes(r["memory_bytes"]),
                f"{max(r['error']['output'], r['error']['gradients'] or 0):.0e}",
            )
        )
    title = f"{case['title']}\n  {w['flops'] / 1e9:.4g} GFLOP, {in_bytes(w['bytes'])}"
    return "\n".join([title, *aligned(rows), *notes])


def scaling_table(cases: list[dict[str, Any]]) -> str:
    """Time per unit of our contestants, from size to size."""
    names = list(dict.fromkeys(r["contestant"] for case in cases for r in case["results"] if "seconds" in r))
    rows = [("units", *(f"{name}, ns a unit" for name in names))]
    for case in cases:
        found = {r["contestant"]: r["seconds"]["median"] for r in case["results"] if "seconds" in r}
        each = (f"{1e9 * found[name] / case['units']:.2f}" if name in found else "-" for name in names)
        rows.append((f"{case['units']:,}", *each))
    return "\n".join(["scaling: model, forward, one window", *aligned(rows)])


def report_text(report: dict[str, Any]) -> str:
    """All of it."""
    scaling = [case for case in report["cases"] if case["scaling"]]
    parts = [header(report), *(case_table(case) for case in report["cases"] if not case["scaling"])]
    return "\n\n".join([*parts, *([scaling_table(scaling)] if scaling else [])]) + "\n"


def draw(report: dict[str, Any], path: Path) -> None:
    """Milliseconds of a forecast against the population, both logarithmic, with the roofline in bfloat16."""
    import matplotlib.pyplot as plt

    from poco.plots import save

    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    shown = {
        "published float32": ("#a34b7d", "-"),
        "published bfloat16 graph": ("#d08c3c", "-"),
        "poco float32 graph": ("#5a9bd4", "-"),
        "poco bfloat16 graph": ("#14506b", "-"),
    }
    cases = [case for case in report["cases"] if case["part"] == "model" and case["mode"] == "forward"]
    for name, (colour, style) in shown.items():
        points = sorted(
            {
                (case["units"], 1e3 * r["seconds"]["median"])
                for case in cases
                for r in case["results"]
                if r["contestant"] == name and "seconds" in r
            }
        )
        if points:
            axis.plot(*zip(*points, strict=True), style, color=colour, marker="o", ms=4, label=name)
    ceiling = report["ceilings"]["default"]
    roof = sorted(
        (case["units"], 1e3 * max(w["flops"] / ceiling["bfloat16"], w["bytes"] / ceiling["copy"]))
        for case in cases
        for w in [case["work"]["bfloat16"]]
    )
    axis.plot(*zip(*roof, strict=True), "--", color="#888888", label="roofline, bfloat16")
    axis.set(xscale="log", yscale="log", xlabel="units", ylabel="milliseconds a forecast")
    axis.set_title(report["environment"]["gpu"]["name"])
    axis.legend()
    save(figure, path)
