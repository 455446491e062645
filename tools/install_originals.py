"""Install the original packages that ``septet bench --suite speech`` compares with.

    python tools/install_originals.py DIR
    septet bench --suite speech --originals DIR

Each package gets a folder of its own with what it imports beyond torch, numpy and transformers,
which are those of this environment. Nothing is installed into the environment itself.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_EINOPS = "einops==0.8.2"
PACKAGES = {
    "diffusers-0.0.4": ("diffusers==0.0.4", _EINOPS),
    # built for CPython 3.11
    "grad-tts-0.0.4": (
        "grad-tts==0.0.4",
        _EINOPS,
        "inflect==7.6.0",
        "more_itertools==11.2.1",
        "typeguard==4.6.1",
        "Unidecode==1.4.0",
    ),
}


def main() -> None:
    """Install all packages into the folder that the command line names."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} DIR")
    for name, requirements in PACKAGES.items():
        target = Path(sys.argv[1]) / name
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        subprocess.run([*pip, "--target", str(target), *requirements], check=True)


if __name__ == "__main__":
    main()
