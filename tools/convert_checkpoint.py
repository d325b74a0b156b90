"""Turn published checkpoints into safetensors, or average EDM2 snapshots to another width.

    python tools/convert_checkpoint.py FILE [FILE ...] [--out FOLDER]
    python tools/convert_checkpoint.py --ema STD FILE FILE [...] [--out FILE]

The first form writes FILE.safetensors beside each file (or into the folder): .pt and .ckpt files of plain tensors, and
EDM2's .pkl snapshots, which are read without running the code in them. The header names the source, its SHA-256 and,
for a snapshot, the settings that the network was built with.

The second form makes the average of width STD, at the time of the latest snapshot, from two or more stored averages of
one training (Karras et al. 2024, post-hoc EMA). Time and width come from the published file names, such as
edm2-img512-xs-2147483-0.050.pkl.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if "guidance_pack" not in sys.modules:
    # The checkout's folder may have any name, so the pack gets its module name here, not from sys.path.
    spec = ModuleSpec("guidance_pack", None, is_package=True)
    spec.submodule_search_locations = [str(ROOT)]
    sys.modules["guidance_pack"] = module_from_spec(spec)

from guidance_pack.guidance.networks.edm2 import averaging  # noqa: E402


def convert(files: Sequence[Path], folder: Path | None) -> None:
    """Write each file as safetensors. Raises CheckpointError for a file that cannot be read."""
    for file in files:
        print(f"{file.name} -> {averaging.convert_file(file, folder)}")


def reconstruct(files: Sequence[Path], std: float, out: Path | None) -> None:
    """Write the average of another width. Raises ValueError for snapshots that cannot give it."""
    made = averaging.average_files(files, std, out)
    for name, share in made.shares:
        print(f"{share:+.4f}  {name}")
    print(f"-> {made.path}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, help="folder of the converted files, or file of the average")
    parser.add_argument("--ema", type=float, metavar="STD", help="average to this relative width, such as 0.070")
    options = parser.parse_args(arguments)
    try:
        if options.ema is None:
            convert(options.files, options.out)
        else:
            reconstruct(options.files, options.ema, options.out)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
