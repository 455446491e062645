"""Entry point of the ``septet`` command: arguments, exit codes, and errors in one line.

Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from septet import __version__

SCHEDULERS = ("ddpm", "ddim", "pndm")
DEMO_PARTS = ("digits", "emoji", "speech")
DTYPES = ("float32", "float16", "bfloat16")


class UsageError(Exception):
    """The command was called with arguments that do not go together."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments, those of the process if not given.

    Returns:
        The exit code.
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as exit_request:  # argparse has printed its message, or the help
        return exit_request.code if isinstance(exit_request.code, int) else 2
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("septet: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        message = str(error).strip().split("\n", 1)[0] or type(error).__name__
        print(f"septet: error: {message}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _run(arguments: argparse.Namespace) -> int:
    # each command imports what it needs, so that --help stays quick
    if arguments.command == "env":
        from septet.cli.env import print_environment

        print_environment(as_json=arguments.json)
        return 0
    if arguments.command == "demo":
        return _run_demo(arguments)
    if arguments.command == "bench":
        from septet.cli.bench import run_bench

        run_bench(arguments)
        return 0
    from septet.cli.run import run_checkpoint

    run_checkpoint(arguments)
    return 0


def _run_demo(arguments: argparse.Namespace) -> int:
    """Run the parts of the demo that were asked for; the worst exit code counts."""
    codes = [0]
    if arguments.only in (None, "digits"):
        from septet.cli.demo import run_demo

        code = run_demo(
            arguments.output,
            batch_size=arguments.batch,
            seed=arguments.seed,
            checkpoint=arguments.model,
            ddpm_steps=arguments.ddpm_steps,
        )
        codes.append(code)
    if arguments.only in (None, "emoji"):
        from septet.cli.text_demo import run_text_demos

        codes.append(run_text_demos(arguments.output, seed=arguments.seed))
    if arguments.only in (None, "speech"):
        from septet.cli.speech_demo import run_speech_demo

        codes.append(run_speech_demo(arguments.output, seed=arguments.seed))
    return max(codes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="septet", description="Sampling for seven diffusion pipelines on fused kernels."
    )
    parser.add_argument("--version", action="version", version=f"septet {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--debug", action="store_true", help="show where an error came from, not only its message"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        parents=[shared],
        help="generate handwritten digits, captioned emoji and speech, and judge them",
        description="Generate handwritten digits with DDPM, DDIM and PNDM, emoji from texts with "
        "latent diffusion and GLIDE, and a spoken sentence with Grad-TTS and BDDM. Write pictures "
        "and sound, compare the digits with real ones that no training has seen, the emoji with "
        "those of 50 captions, and the sound with its spectrogram. Fails if one kind is much "
        "worse.",
    )
    demo.add_argument("--output", type=Path, default=Path("out"), metavar="DIR")
    demo.add_argument("--only", choices=DEMO_PARTS, help="one part of it")
    demo.add_argument("--batch", type=_positive, default=100, help="digits per sampler (100)")
    demo.add_argument("--seed", type=_seed, default=0)
    demo.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    demo.add_argument("--ddpm-steps", type=_positive, default=1000, help=argparse.SUPPRESS)

    run = commands.add_parser(
        "run",
        parents=[shared],
        help="generate images or speech from a checkpoint folder",
        description="Generate images or speech from a checkpoint folder in the layout of "
        "diffusers.",
    )
    _add_run_arguments(run)

    from septet.cli import bench  # not above: it needs UsageError

    bench.add_arguments(
        commands.add_parser(
            "bench",
            parents=[shared],
            help="time kernels, samplers and networks against diffusers and plain torch",
            description="Time kernels, samplers and networks against diffusers (if installed) and "
            "plain torch, in turn, and say how exact each of them is.",
        )
    )

    env = commands.add_parser(
        "env", parents=[shared], help="report versions, hardware and compiled libraries"
    )
    env.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _add_run_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="checkpoint folder (with --prompt: demo emoji; with --text: demo voice)",
    )
    run.add_argument("--prompt", help="what to draw, for text-to-image checkpoints")
    run.add_argument("--text", help="what to say, for text-to-speech checkpoints")
    run.add_argument("--vocoder", type=Path, metavar="DIR", help="checkpoint folder of a vocoder")
    run.add_argument("--temperature", type=float, help="divides the first noise of speech")
    run.add_argument("--length-scale", type=float, metavar="SCALE", help="above 1 speaks slower")
    run.add_argument("--negative-prompt", metavar="PROMPT", help="what not to draw")
    run.add_argument("--guidance-scale", type=float, metavar="SCALE", help="weight of the prompt")
    run.add_argument("--height", type=_positive, help="in pixels")
    run.add_argument("--width", type=_positive, help="in pixels")
    run.add_argument(
        "--output",
        type=Path,
        default=Path("out"),
        metavar="PATH",
        help="a .png file (a grid if there are several images), a .wav file, or a folder "
        "(default: out)",
    )
    run.add_argument("--scheduler", choices=SCHEDULERS, help="instead of the checkpoint's sampler")
    run.add_argument("--steps", type=_positive, help="the sampler's own number if not given")
    run.add_argument("--batch", type=_positive, default=1, help="number of images or readings (1)")
    run.add_argument("--seed", type=_seed, default=0)
    run.add_argument("--eta", type=float, help="noise of DDIM: 0 none, 1 as much as DDPM")
    run.add_argument("--device", default="cpu")
    run.add_argument("--dtype", choices=DTYPES, default="float32")
    run.add_argument("--variant", help="which weights files, for example fp16")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must lie in [0, 2**63), got {value}")
    return value
