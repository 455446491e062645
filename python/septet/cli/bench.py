"""``septet bench``: times kernels, samplers and networks, and says how exact they are."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from septet.cli.main import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--suite", choices=("ops", "models", "all"), default="all")
    parser.add_argument(
        "--filter", default="", metavar="REGEX", help="only cases whose name contains a match"
    )
    parser.add_argument("--list", action="store_true", help="only print the names of the cases")
    parser.add_argument("--threads", type=_count, help="torch's own number if not given")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--seconds", type=_seconds, default=1.0, help="per implementation, on average (1)"
    )
    length.add_argument("--repeats", type=_count, help="turns per implementation instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one JSON object per line")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the speed-ups")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the page of docs/performance.md"
    )


def run_bench(arguments: argparse.Namespace) -> None:
    """Measure, print, write; see ``septet bench --help``.

    Raises:
        UsageError: If nothing matches the filter, or a file name does not suit.
        OSError: If a file cannot be written.
    """
    if arguments.plot is not None and arguments.plot.suffix.lower() != ".svg":
        raise UsageError(f"--plot writes SVG: its file must end in .svg, got {arguments.plot}")
    # torch, diffusers and the kernels are loaded here, so that --help stays quick
    from septet.bench import plot, report, rows, runner
    from septet.bench.records import write_json_lines

    try:
        chosen = rows.select(arguments.suite, arguments.filter)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not chosen:
        raise UsageError(f"no case of suite {arguments.suite} matches {arguments.filter!r}")
    if arguments.list:
        print("\n".join(row.name for row in chosen))
        return
    settings = runner.Settings.of(arguments.seconds, arguments.repeats, arguments.threads)
    report.print_header()
    records = runner.run(chosen, settings, report.print_case)
    if warning := report.unrest(records):
        print(f"septet: {warning}", file=sys.stderr)
    if arguments.json is not None:
        write_json_lines(records, arguments.json)
    if arguments.plot is not None:
        plot.write_svg(records, arguments.plot)
    if arguments.markdown is not None:
        report.write_markdown(records, arguments.markdown, _command(arguments), arguments.plot)


def _command(arguments: argparse.Namespace) -> str:
    """Write the command line that makes the same page."""
    words = ["septet", "bench"]
    for name in ("suite", "filter", "threads", "repeats", "seconds", "json", "plot", "markdown"):
        value = getattr(arguments, name)
        if value not in (None, "") and not (name == "seconds" and arguments.repeats):
            words += [f"--{name}", str(value)]
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
