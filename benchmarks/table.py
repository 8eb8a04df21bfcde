"""The figures as text for people."""

from __future__ import annotations

from typing import Any

_COLUMNS = ("", "ms", ".2 to .8", "published", "best alike", "best", "roofline", "memory", "error")


def header(report: dict[str, Any]) -> str:
    """Where and with what the figures were taken, and the ceilings."""
    e, c = report["environment"], report["ceilings"]
    versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items() if name != "platform")
    tried = ", ".join(f"{name} {1e3 * s:.1f} ms" for name, s in e["settings_tried_seconds"].items())
    variables = " ".join(f"{k}={v}" for k, v in e["variables"].items())
    ceilings = (
        f"ceilings: {c['float32'] / 1e9:.0f} GFLOP/s in float32, {c['bfloat16'] / 1e9:.0f} in bfloat16, "
        f"copy {c['copy'] / 1e9:.1f} GB/s"
    )
    lines = [
        f"{e['date']}, commit {e['commit'][:12]}{' with changes' if e['dirty'] else ''}",
        f"{e['processor']}, {e['processors']} processors, {in_bytes(e['memory_bytes'])}, load {e['load_average']}",
        f"instruction sets: {' '.join(e['instruction_sets'])}; kernels: {e['kernels']}; torch: {e['torch_capability']}",
        f"backend cpu: {e['backends']['cpu']}",
        versions,
        f"{e['threads']} threads, settings '{e['settings']}': {variables}",
        *([f"published form under each of the settings: {tried}"] if tried else []),
        ceilings,
        "",
        "ms: median of the turns; published: how many times the speed of the published form in eager float32;",
        "best alike: of the fastest published form whose products are in the same precision, whatever runs it;",
        "best: of the fastest published form in any precision;",
        "roofline: share of the speed that the least work allows at the ceilings, those of a large product and a large",
        "copy by the library: above 100 % the kernels beat it, or data stay in the caches;",
        "memory: growth during one call;",
        "error: of the output, relative, against the published form in float32, with gradients the larger of the two.",
    ]
    return "\n".join(lines)


def case_table(case: dict[str, Any]) -> str:
    """One case."""
    low, wide = case["work"]["bfloat16"], case["work"]["float32"]
    roof = case["roofline_seconds"]
    title = (
        f"{case['title']}\n"
        f"  {wide['flops'] / 1e9:.4g} GFLOP, {in_bytes(wide['bytes'])} ({in_bytes(low['bytes'])} in bfloat16); "
        f"roofline {milliseconds(roof['float32'])} ms in float32, {milliseconds(roof['bfloat16'])} ms in bfloat16; "
        f"load before {case['load_average_before']}"
    )
    eager = published_eager(case)
    rows: list[tuple[str, ...]] = [_COLUMNS]
    notes = []
    for r in case["results"]:
        if "seconds" not in r:
            notes.append(f"  {r['contestant']}: {r['status']}: {r['reason']}")
            continue
        if "memory_missing" in r:
            notes.append(f"  {r['contestant']}: no memory: {r['memory_missing']}")
        s = r["seconds"]
        rows.append(
            (
                r["contestant"],
                milliseconds(s["median"]),
                f"{milliseconds(s['low'])} to {milliseconds(s['high'])}",
                times(eager, s["median"]),
                times(_best(case, r["precision"] == "float32"), s["median"]),
                times(_best(case, None), s["median"]),
                f"{100 * r['roofline']:.0f} %",
                in_bytes(r.get("memory_bytes")),
                f"{max(r['error']['output'], r['error']['gradients'] or 0):.0e}",
            )
        )
    return "\n".join([title, *aligned(rows), *notes])


def published_eager(case: dict[str, Any]) -> float | None:
    """Seconds of the published form in eager float32, if it was timed."""
    found = (r for r in case["results"] if r["contestant"] == "published float32" and "seconds" in r)
    return next((r["seconds"]["median"] for r in found), None)


def _best(case: dict[str, Any], wide: bool | None) -> float | None:
    """Seconds of the fastest published form, in float32 (``wide``), in bfloat16, or in either (None)."""
    peers = (r for r in case["results"] if r["form"] == "published" and "seconds" in r)
    return min((r["seconds"]["median"] for r in peers if wide in (None, r["precision"] == "float32")), default=None)


def scaling_table(cases: list[dict[str, Any]]) -> str:
    """Time per unit of our contestants, from size to size."""
    names = list(dict.fromkeys(r["contestant"] for case in cases for r in case["results"]))
    rows = [("units", *(text for name in names for text in (f"{name}, ns a unit", "to the first")))]
    first: dict[str, float] = {}
    for case in cases:
        row = [f"{case['units']:,}"]
        found = {r["contestant"]: r for r in case["results"]}
        for name in names:
            if "seconds" not in found.get(name, {}):
                row += ["-", "-"]
                continue
            each = found[name]["seconds"]["median"] / case["units"]
            row += [f"{1e9 * each:.0f}", f"{each / first.setdefault(name, each):.2f}"]
        rows.append(tuple(row))
    return "\n".join(["scaling: model, forward, one window", *aligned(rows)])


def report_text(report: dict[str, Any]) -> str:
    """All of it."""
    scaling = [case for case in report["cases"] if case["scaling"]]
    parts = [header(report), *(case_table(case) for case in report["cases"] if not case["scaling"])]
    return "\n\n".join([*parts, *([scaling_table(scaling)] if scaling else [])]) + "\n"


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, to three digits."""
    ms = 1e3 * seconds
    return f"{ms:.0f}" if ms >= 1000 else f"{ms:.3g}"


def times(peer: float | None, own: float) -> str:
    """How many times the peer's speed."""
    return "-" if peer is None else f"{peer / own:.2f} x"


def in_bytes(count: float | None) -> str:
    """A number of bytes for people."""
    if count is None:
        return "-"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
