"""Makes ``python -m septet`` the same as the ``septet`` command."""

from __future__ import annotations

import sys

from septet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
