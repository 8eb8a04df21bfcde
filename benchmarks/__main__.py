"""The command line: ``python -m benchmarks cpu`` and ``python -m benchmarks gpu``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import settings
from benchmarks.arguments import count, duration, expect_known
from benchmarks.cases import NAMES, QUICK_SIZES, SIZES, plan, with_takers


def main(arguments: list[str]) -> int:
    """Measures, prints, writes; 1 if an answer was wrong or a contestant failed."""
    if arguments[:1] == ["gpu"]:
        from benchmarks import gpu_command

        return gpu_command.main(arguments[1:])
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.contestants:
        settings.start_torch(given.threads)
        from benchmarks.contestants import CONTESTANTS

        expect_known(parser, given.contestants, [c.name for c in CONTESTANTS])
    if given.settings is None:
        given.settings = settings.DEFAULT if given.quick else "auto"
    tried: dict[str, float] = {}
    if given.settings == "auto":
        given.settings, tried = settings.choose(given.threads)
        tried_words = ",".join(f"{name}:{seconds:.6f}" for name, seconds in tried.items())
        settings.restart(given.settings, [*arguments, "--settings", given.settings, "--tried", tried_words])
    if not settings.in_force(given.settings):
        settings.restart(given.settings, arguments)
    settings.start_torch(given.threads)
    if given.tried:
        tried = {name: float(s) for name, _, s in (part.partition(":") for part in given.tried.split(","))}
    return _run(given, tried)


def _run(given: argparse.Namespace, tried: dict[str, float]) -> int:
    import json
    import warnings

    from benchmarks import ceilings, environment, table
    from benchmarks.contestants import CONTESTANTS
    from benchmarks.run import Options, run_case

    warnings.filterwarnings("ignore", category=FutureWarning)  # the exporter's and the compiler's, of themselves
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    quick = given.quick
    options = Options(given.seconds or (1.0 if quick else 15.0), 3, 10 if quick else 50, not (quick or given.no_memory))
    contestants = [c for c in CONTESTANTS if not given.contestants or c.name in given.contestants]
    if quick and not given.contestants:
        contestants = [c for c in contestants if c.how == "eager"]
    cases = plan(tuple(given.only), tuple(given.sizes or (QUICK_SIZES if quick else SIZES)), quick)
    cases = with_takers(cases, contestants)
    if not cases:
        return 1
    found = ceilings.measure(quick)
    report: dict[str, Any] = {
        "environment": environment.describe(given.settings, tried),
        "ceilings": asdict(found),
        "cases": [],
    }
    print(table.header(report), flush=True)
    for case in cases:
        done = run_case(case, contestants, found, options)
        report["cases"].append(done)
        if not case.scaling:
            print("\n" + table.case_table(done), flush=True)
        if given.json:  # after every case: a long run that is cut short has written what it knows
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(report, indent=1) + "\n")
            given.json.with_suffix(".txt").write_text(table.report_text(report))
    scaling = [done for done in report["cases"] if done["scaling"]]
    if scaling:
        print("\n" + table.scaling_table(scaling))
    bad = [(d["title"], r) for d in report["cases"] for r in d["results"] if r["status"] in ("wrong", "failed")]
    for title, result in bad:
        print(f"{title}: {result['contestant']} {result['status']}: {result['reason']}", file=sys.stderr)
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What poco costs, beside its peers.")
    parser.add_argument("device", choices=["cpu", "gpu"], help="gpu has options of its own: gpu --help")
    parser.add_argument("--only", action="append", default=[], choices=NAMES, help="these alone; may be repeated")
    parser.add_argument("--sizes", type=count, nargs="+", metavar="UNITS", help="units of the operations and the model")
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="these alone, by their names in the table")
    parser.add_argument("--threads", type=count, help="of everybody; default: what torch takes")
    parser.add_argument("--quick", action="store_true", help="small sizes, few turns, nothing compiled, no memory")
    parser.add_argument("--seconds", type=duration, help="for the times of a case; default 15, quick 1")
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--json", type=Path, help="write the report here, and as text beside it")
    parser.add_argument(
        "--settings",
        choices=["auto", *settings.SETTINGS],
        help="environment of the process; default: what the published form is fastest under, quick: "
        + settings.DEFAULT,
    )
    parser.add_argument("--tried", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
