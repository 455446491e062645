"""Times programs from the start of their process to their result, in turn: A B C A B C ..."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from septet.bench.apart import in_own_process
from septet.bench.rows import StartWorkload
from septet.testing.timing import Timing

#: How often each program runs unless told otherwise, after a turn that fills the page cache.
TURNS = 7

# The clock is that of the system, the same in all processes. Writing the result is not timed.
_PROGRAM = """\
folder, result, file = {folder!r}, None, {file!r}
{source}
import time
ready = time.monotonic()
if result is not None:
    import numpy
    numpy.save(file, numpy.asarray(result))
print(ready)
"""

# Seconds that anything takes beyond what all have in common: where it seems to take less, the
# machine was busier with the latter, and ratios have to remain finite.
_LEAST = 1e-3


@dataclass(frozen=True, eq=False)
class Started:
    """What all turns of a program gave.

    Attributes:
        timing: From the start of the process, less what :attr:`StartWorkload.common` takes.
        outputs: The result; empty where there is none.
    """

    timing: Timing
    outputs: list[Tensor]


def measure(
    workload: StartWorkload, turns: int, threads: int
) -> tuple[dict[str, Started], Started]:
    """Run every program in a new process, time and again.

    Args:
        workload: What to measure.
        turns: How often each runs.
        threads: For torch and the kernels.

    Returns:
        A measurement per program, in their order; and one of what they have in common, whole.

    Raises:
        RuntimeError: If a program fails; the message ends with what it said last.
    """
    sources = {"": workload.common} | {p.name: p.source for p in workload.programs}
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    outputs = {}
    with tempfile.TemporaryDirectory(prefix="septet-bench-") as name:
        folder, file = Path(name) / "weights", Path(name) / "result.npy"
        folder.mkdir()
        in_own_process("the weights", workload.write_weights, folder)
        for turn in range(turns + 1):
            for who, source in sources.items():
                spent = start(source, folder, file, threads)
                if turn:
                    seconds[who].append(spent)
                elif file.exists():
                    outputs[who] = [torch.from_numpy(np.load(file).astype(np.float32))]
                file.unlink(missing_ok=True)
    whole = seconds.pop("")
    common = statistics.median(whole)
    found = {
        who: Started(Timing(tuple(max(_LEAST, s - common) for s in spent), 1), outputs[who])
        for who, spent in seconds.items()
    }
    return found, Started(Timing(tuple(whole), 1), [])


def start(source: str, folder: Path, file: Path, threads: int) -> float:
    """Run a program in a new process; return the seconds to its result.

    Args:
        source: See :attr:`septet.bench.rows.Program.source`.
        folder: Where the weights are.
        file: Where the result is saved, if there is one.
        threads: For torch and the kernels.

    Raises:
        RuntimeError: If it fails.
    """
    code = _PROGRAM.format(folder=str(folder), file=str(file), source=source)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"a program fails: {done.stderr.strip().rpartition(chr(10))[2]}")
    return float(done.stdout.split()[-1]) - begin
