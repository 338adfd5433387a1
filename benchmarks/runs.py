"""Fit and test through the command line, as a user would; and results that survive an interruption."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

DYNVID = str(Path(sys.executable).with_name("dynvid"))
RESULTS = Path(__file__).parent / "results"

_running: set[subprocess.Popen[bytes]] = set()


class Run(NamedTuple):
    """What one run gave: minutes of `fit`, `report.json`, and the rows of `flops_accuracy.csv`, both of `test`."""

    fit_minutes: float
    report: dict[str, Any]
    curve: list[dict[str, str]]


def fit_and_test(arguments: list[str], threads: int | None = None) -> Run:
    """Run `dynvid fit` and `dynvid test` with the same arguments, in a folder that is removed afterwards."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with tempfile.TemporaryDirectory() as folder:
        common = [*arguments, "--trainer.default_root_dir", folder, "--trainer.enable_progress_bar", "false"]
        started = time.perf_counter()
        call([DYNVID, "fit", *common], environment)
        minutes = (time.perf_counter() - started) / 60
        checkpoints = sorted(Path(folder).glob("lightning_logs/*/checkpoints/*.ckpt"), key=os.path.getmtime)
        checkpoint = next((c for c in checkpoints if c.stem in ("best", "final")), checkpoints[-1])
        call([DYNVID, "test", *without_calibration(common), "--ckpt_path", str(checkpoint)], environment)
        report = next(Path(folder).rglob("report.json"))
        with report.with_name("flops_accuracy.csv").open(newline="") as file:
            curve = list(csv.DictReader(file))
        return Run(round(minutes, 2), json.loads(report.read_text()), curve)


def without_calibration(arguments: list[str]) -> list[str]:
    """The arguments that evaluation takes too: it evaluates the thresholds of the checkpoint and finds none.

    >>> without_calibration(["--calibration.max_drop", "0.02", "--data.size=32", "--calibration.confidence=null"])
    ['--data.size=32']
    """
    kept, words = [], iter(arguments)
    for word in words:
        if not word.startswith("--calibration"):
            kept.append(word)
        elif "=" not in word:
            next(words, None)  # its value
    return kept


def stop_children_on_sigterm() -> None:
    """Let a SIGTERM end the runs under way too, and remove their folders."""

    def stop(*_: object) -> None:
        for child in _running:
            child.terminate()
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)


def shown(arguments: list[str]) -> str:
    """The arguments as results keep them: paths by their last part, since folders differ between machines."""

    def short(word: str) -> str:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        is_path = value.startswith(("/", "./", "../", "~")) or (os.sep in value and Path(value).exists())
        return f"{option}{equals}{Path(value).name if is_path else value}"

    return shlex.join(short(word) for word in arguments)


def require_same(file: Path, kept: str, now: str) -> None:
    """Refuse to add a run to results that other arguments gave."""
    if kept != now:
        sys.exit(f"{file} holds runs with '{kept}', not with '{now}': take another --name, or remove the file")


def write(file: Path, text: str) -> None:
    """Replace a file in one step, so that a kill leaves the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_text(text)
    os.replace(unfinished, file)


def call(command: list[str], environment: dict[str, str], output: IO[bytes] | None = None) -> None:
    """Run a command, its output to a file where one is given; SystemExit where it fails."""
    with subprocess.Popen(command, env=environment, stdout=output, stderr=output) as child:
        _running.add(child)
        try:
            code = child.wait()
        except BaseException:
            child.terminate()
            raise
        finally:
            _running.discard(child)
    if code:
        sys.exit(f"dynvid {command[1]} ended with exit code {code}; finished runs are kept")
