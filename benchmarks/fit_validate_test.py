"""Fit, validate and test one run, in one process, which imports everything once; keep what the net answered.

    python benchmarks/fit_validate_test.py FOLDER [--keep-checkpoint] --config quickstart.yaml --seed_everything 0

Arguments after FOLDER go to the three commands; `--calibration...` goes to `fit` alone. FOLDER, which is there when all
three have ended well, holds outputs_val.parquet, outputs_test.parquet and report.json of the test.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from runs import without_calibration


def main(folder: Path, arguments: list[str]) -> None:
    """Run the commands."""
    from dynvid.cli import main as dynvid

    keep = "--keep-checkpoint" in arguments
    arguments = [word for word in arguments if word != "--keep-checkpoint"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as unfinished:
        logs, kept = Path(unfinished, "logs"), Path(unfinished, "kept")
        kept.mkdir()
        common = [*arguments, "--trainer.default_root_dir", str(logs), "--trainer.enable_progress_bar", "false"]
        dynvid(["fit", *common])
        for command, split in (("validate", "val"), ("test", "test")):
            dynvid([command, *without_calibration(common), "--ckpt_path", "best"])
            outputs = max(logs.rglob(f"outputs_{split}.parquet"), key=lambda path: path.stat().st_mtime_ns)
            shutil.copy(outputs, kept)
        shutil.copy(outputs.with_name("report.json"), kept)
        if keep:
            (checkpoint,) = {*logs.rglob("best.ckpt"), *logs.rglob("final.ckpt")}
            shutil.copy(checkpoint, kept / "checkpoint.ckpt")
        os.replace(kept, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
