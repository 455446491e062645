"""``septet bench``: times kernels, samplers and networks, and says how exact they are."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from septet.cli.main import UsageError

if TYPE_CHECKING:
    from septet.bench.records import Record
    from septet.bench.rows import Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--suite",
        choices=("ops", "models", "pipelines", "startup", "scaling", "large", "speech", "all"),
        help="all (if not given) is the first four: operators, networks, whole pipelines, and the "
        "way from the start of a process to a result; large has the networks of gigabytes, speech "
        "whole runs beside the original packages, scaling one network over batches and sizes",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda measures a suite of its own: kernels, attention and a network on a GPU",
    )
    parser.add_argument(
        "--filter", default="", metavar="REGEX", help="only cases whose name contains a match"
    )
    parser.add_argument("--list", action="store_true", help="only print the names of the cases")
    parser.add_argument(
        "--originals",
        type=Path,
        metavar="DIR",
        help="where tools/install_originals.py put the packages that suite speech compares with",
    )
    parser.add_argument("--threads", type=_count, help="torch's own number if not given")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--seconds", type=_seconds, default=1.0, help="per implementation, on average (1)"
    )
    length.add_argument(
        "--repeats",
        type=_count,
        help="turns per implementation instead; if not given, 7 in suite startup, 3 in large and "
        "speech",
    )
    parser.add_argument(
        "--from-json",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing, but show what --json wrote, of several runs together",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write one JSON object per line, those of a case as soon as it is done",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the speed-ups")
    parser.add_argument(
        "--scaling-plot",
        type=Path,
        metavar="FILE.svg",
        help="draw the times of suite scaling over the number of operations",
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the page of docs/performance.md"
    )


def run_bench(arguments: argparse.Namespace) -> None:
    """Measure (or read), print, write; see ``septet bench --help``.

    Raises:
        UsageError: If nothing matches the filter, arguments do not go together, or a file name or
            a file of records does not suit.
        OSError: If a file cannot be read or written.
    """
    for option in ("plot", "scaling_plot"):
        path = getattr(arguments, option)
        if path is not None and path.suffix.lower() != ".svg":
            name = option.replace("_", "-")
            raise UsageError(f"--{name} writes SVG: its file must end in .svg, got {path}")
    # torch, diffusers and the kernels are loaded here, so that --help stays quick
    from septet.bench import plot, report, rows, scaling_plot
    from septet.bench.records import write_json_lines

    if arguments.from_json:
        records = _read(arguments)
    else:
        suite = arguments.suite or "all"
        if arguments.device == "cuda":
            suite = _cuda_suite(arguments)
        try:
            chosen = rows.select(suite, arguments.filter)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if not chosen:
            raise UsageError(f"no case of suite {suite} matches {arguments.filter!r}")
        if arguments.list:
            print("\n".join(row.name for row in chosen))
            return
        records = _measure(_without_obstacles(chosen, arguments.originals), arguments)
    if warning := report.unrest(records):
        print(f"septet: {warning}", file=sys.stderr)
    if arguments.json is not None and arguments.from_json:
        write_json_lines(records, arguments.json)
    if arguments.plot is not None:
        plot.write_svg(records, arguments.plot)
    if arguments.scaling_plot is not None:
        try:
            scaling_plot.write_scaling_svg(records, arguments.scaling_plot)
        except ValueError as error:
            raise UsageError(f"--scaling-plot: {error}") from error
    if arguments.markdown is not None:
        report.write_markdown(records, arguments.markdown, arguments.plot)


def _cuda_suite(arguments: argparse.Namespace) -> str:
    import torch

    if arguments.suite:
        raise UsageError("--device cuda has a suite of its own: no --suite beside it")
    if not arguments.list and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device")
    return "cuda"


def _without_obstacles(chosen: Sequence[Row], originals: Path | None) -> list[Row]:
    """Say which rows cannot run here and why; return the others."""
    from septet.bench.originals import ENVIRONMENT

    if originals is not None:
        os.environ[ENVIRONMENT] = str(originals)  # the processes that measure inherit it
    ready = []
    for row in chosen:
        obstacle = row.obstacle()
        if obstacle is None:
            ready.append(row)
        else:
            print(f"septet: {row.name} skipped: {obstacle}", file=sys.stderr)
    return ready


def _measure(chosen: Sequence[Row], arguments: argparse.Namespace) -> list[Record]:
    from septet.bench import report, runner
    from septet.bench.records import append_json_lines, write_json_lines

    if not chosen:
        return []
    if arguments.json is not None:
        write_json_lines((), arguments.json)

    def on_row(records: list[Record]) -> None:
        report.print_case(records)
        if arguments.json is not None:
            append_json_lines(records, arguments.json)

    settings = runner.Settings.of(
        arguments.seconds, arguments.repeats, arguments.threads, _command(arguments)
    )
    report.print_header()
    return runner.run(chosen, settings, on_row)


def _read(arguments: argparse.Namespace) -> list[Record]:
    """Print and return the records of all files."""
    from septet.bench import report
    from septet.bench.records import merge, read_json_lines

    if arguments.list or arguments.suite or arguments.filter:
        raise UsageError("--from-json takes all cases: no --suite, --filter or --list beside it")
    try:
        records = merge(read_json_lines(path) for path in arguments.from_json)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not records:
        raise UsageError("--from-json: there is no record in these files")
    report.print_header()
    for _, case in itertools.groupby(records, key=lambda record: record.case["name"]):
        report.print_case(list(case))
    return records


def _command(arguments: argparse.Namespace) -> str:
    """Write the command line that measures the same; where files lie is no part of it."""
    words = ["septet", "bench"]
    for name in ("suite", "filter", "threads", "repeats", "seconds"):
        value = getattr(arguments, name)
        if value not in (None, "") and not (name == "seconds" and arguments.repeats):
            words += [f"--{name}", str(value)]
    if arguments.device != "cpu":
        words += ["--device", arguments.device]
    return shlex.join(words)


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"must lie in 1 to 1024, got {value}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"must be positive and at most 3600, got {value}")
    return value
