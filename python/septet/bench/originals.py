"""Packages of 2021 and 2022 that cannot live beside today's, each in a folder of its own.

``tools/install_originals.py`` fills the folders; a process that measures one of the packages puts
its folder before all others.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

#: Names the folder that holds the packages' folders; the option --originals sets it.
ENVIRONMENT = "SEPTET_ORIGINALS"


@dataclass(frozen=True)
class Original:
    """A package to compare with.

    Attributes:
        name: Its name and version.
        file: A file that it has, relative to its folder.
    """

    name: str
    file: str

    @property
    def folder(self) -> Path:
        """Where it is expected."""
        return Path(os.environ.get(ENVIRONMENT) or ".originals") / self.name.replace(" ", "-")

    def obstacle(self) -> str | None:
        """Say what keeps the package from being measured; None if nothing does."""
        if (self.folder / self.file).is_file():
            return None
        root = self.folder.parent
        return (
            f"{self.name} is not in {self.folder}: python tools/install_originals.py {root}, "
            f"then septet bench --originals {root}"
        )

    def put_first(self) -> None:
        """Let this process import from the package's folder."""
        sys.path.insert(0, str(self.folder.resolve()))


#: Has the pipeline of BDDM.
DIFFUSERS = Original("diffusers 0.0.4", "diffusers/pipelines/pipeline_bddm.py")
#: The authors' own package.
GRAD_TTS = Original("grad-tts 0.0.4", "grad_tts/model/tts.py")
