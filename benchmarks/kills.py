"""Stop `dynvid fit` at random moments, go on with `--ckpt_path last`, and count what was lost; then fill the disk.

    python benchmarks/kills.py --kills 20 --seed 0

An epoch counts as finished when its line is printed, and as lost when the state that the next run takes up is of an
earlier epoch. Trains a tiny net on a few generated clips. Writes benchmarks/results/kills.json.
"""

import argparse
import json
import random
import re
import resource
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from runs import DYNVID, RESULTS, write

from dynvid.errors import DynvidError
from dynvid.module import read_checkpoint

FIT = [
    *("fit", "--config", "quickstart.yaml", "--data.root", "clips", "--data.clips_per_class", "3"),
    *("--data.clip_frames", "8", "--data.size", "32", "--data.num_frames", "4", "--data.batch_size", "8"),
    *("--data.num_workers", "0", "--trainer.default_root_dir", "run"),
]
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)  # every other one a SIGKILL
LONG = 10**6  # epochs: a run that only a signal ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = {"kills": options.kills, "seed": options.seed} | kill_and_go_on(folder, options.kills, draw)
        result["full_disk"] = fill_the_disk(folder)
    write(RESULTS / "kills.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def kill_and_go_on(folder: Path, kills: int, draw: random.Random) -> dict[str, object]:
    """Stop so many runs, each taken up from the one before."""
    finished = lost = read = unreadable = leftovers = 0
    sent: Counter[str] = Counter()
    for number in range(kills):
        by = SIGNALS[number % len(SIGNALS)]
        told = run_until(folder, by, lines=draw.randrange(4), then=draw.uniform(0, 1))
        sent[by.name] += 1
        finished = max([finished, *told])
        states = [state for file in folder.rglob("*.ckpt") if (state := epochs(file)) is not None]
        read += len(states)
        unreadable += sum(epochs(file) is None for file in folder.rglob("*.ckpt"))
        leftovers = max(leftovers, len([*folder.rglob("*.unfinished")]))
        lost += max(0, finished - max(states, default=0))
        finished = max(states, default=0)
        print(f"{number + 1}/{kills} {by.name}: {finished} epochs finished, {lost} lost", flush=True)
    done = subprocess.run(
        [DYNVID, *FIT, "--trainer.max_epochs", str(finished + 1), *go_on(folder)],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    end = max(epochs(file) or 0 for file in folder.rglob("*.ckpt"))
    return {
        "signals": dict(sent),
        "epochs_finished": finished,
        "epochs_lost": lost,
        "checkpoints_read": read,
        "checkpoints_unreadable": unreadable,
        "unfinished_files_left_by_a_kill_at_most": leftovers,
        "unfinished_files_left_at_the_end": len([*folder.rglob("*.unfinished")]),
        "went_on_to_the_end": done.returncode == 0 and end == finished + 1,
    }


def fill_the_disk(folder: Path) -> dict[str, object]:
    """Go on where no file may grow beyond 1 MB, which to the one who writes is a full disk."""
    before = {file: file.read_bytes() for file in folder.rglob("*.ckpt")}
    done = subprocess.run(
        [DYNVID, *FIT, "--trainer.max_epochs", str(LONG), *go_on(folder)],
        cwd=folder, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),
    )  # fmt: skip
    errors = [line for line in done.stderr.splitlines() if "rror" in line]
    return {
        "exit_code": done.returncode,
        "error_lines": len(errors),
        "names_the_file": "last.ckpt: cannot be written" in errors[0] or "best.ckpt: cannot be written" in errors[0],
        "checkpoints_kept": {file: file.read_bytes() for file in folder.rglob("*.ckpt")} == before,
    }


def run_until(folder: Path, by: signal.Signals, lines: int, then: float) -> list[int]:
    """Fit, and send the signal some time after so many epochs were told; without any, while the run comes up.

    Returns:
        The epochs that the run said it has finished.
    """
    command = [DYNVID, *FIT, "--trainer.max_epochs", str(LONG), *go_on(folder)]
    with (
        (folder / "errors.txt").open("a") as errors,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1) as run,
    ):
        assert run.stdout is not None
        told: list[int] = []
        for line in run.stdout if lines else ():
            told += epoch_of(line)
            if len(told) == lines:
                break
        time.sleep(then if lines else 8 * then)
        run.send_signal(by)
        told += [epoch for line in run.stdout for epoch in epoch_of(line)]
    if run.returncode == 0:
        raise SystemExit(f"a run that {by.name} ended says it was finished")
    return told


def epoch_of(line: str) -> list[int]:
    return [int(number) for number in re.findall(r"^epoch (\d+)/", line)]


def go_on(folder: Path) -> list[str]:
    return ["--ckpt_path", "last"] if [*folder.rglob("last.ckpt")] else []


def epochs(file: Path) -> int | None:
    """The epochs that a checkpoint has behind it; None where it cannot be read."""
    try:
        progress = read_checkpoint(file)["loops"]["fit_loop"]["epoch_progress"]
    except DynvidError:
        return None
    return int(progress["current"]["processed"])


if __name__ == "__main__":
    main()
