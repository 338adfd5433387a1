"""What the loaders of a large data set cost before the first video is read: time, and memory added.

    python benchmarks/large_sets.py --videos 300000

Makes a tree as Kinetics has it, of empty files in folders by class, and its official lists. Then, each time in a
process of its own: `setup` as of `fit` and the loaders of train, val (kept back from train) and test, and these loaders
by hand, each of which looks for itself. Memory is the growth of the resident set, at its peak and at the end; the
seconds that importing torch takes in that process tell how fast the machine was. Writes
benchmarks/results/large_sets.md.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEST_SHARE, CLASSES = 20, 400
WAYS = {"setup": "`setup` and three loaders", "alone": "three loaders without `setup`"}


def make(root: Path, videos: int) -> None:
    """The tree: a twentieth of the videos is of the validation list, which counts as test."""
    (root / "annotations").mkdir()
    rows: dict[str, list[str]] = {"train": [], "val": []}
    for label in range(CLASSES):
        for split in rows:
            (root / split / f"class {label}").mkdir(parents=True)
    for number in range(videos):
        split, label = "val" if number % TEST_SHARE == 0 else "train", number // TEST_SHARE % CLASSES
        name, start = f"{number * 2654435761 % 2**55:011x}", number % 300
        (root / split / f"class {label}" / f"{name}_{start:06d}_{start + 10:06d}.mp4").touch()
        rows[split].append(f"class {label},{name},{start},{start + 10},{split}\n")
    for split, file in {"train": "train.csv", "val": "validate.csv"}.items():
        text = "label,youtube_id,time_start,time_end,split\n" + "".join(rows[split])
        (root / "annotations" / file).write_text(text)


def resident() -> float:
    """MB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def measure(root: str, way: str) -> None:
    """One way, in this process; printed as JSON."""
    torch_cpu = time.process_time()
    import torch  # noqa: F401

    torch_cpu = time.process_time() - torch_cpu
    from dynvid.data import KineticsDataModule

    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    wall, cpu = time.perf_counter(), time.process_time()
    data = KineticsDataModule(root, num_workers=2)
    if way == "setup":
        data.setup("fit")
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found = [len(loader.dataset) for loader in loaders]  # type: ignore[arg-type]
    peak = int(status["VmHWM"].split()[0]) * 1024 / 1e6
    told = {"torch": torch_cpu, "cpu": cpu, "ratio": cpu / torch_cpu, "wall": wall, "found": found}
    print(json.dumps({**told, "peak": peak - before, "kept": resident() - before}))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--root", type=Path, help="a tree made before, or where to keep it")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measure(str(options.root), options.way)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or Path(folder)
        if not (root / "annotations").is_dir():
            root.mkdir(exist_ok=True)
            make(root, options.videos)
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.repeats + 1):  # the first fills the cache of the disk
            for way, done in runs.items():
                command = [sys.executable, __file__, "--root", str(root), "--way", way]
                result = subprocess.run(command, check=True, capture_output=True, text=True)
                done.append(json.loads(result.stdout.splitlines()[-1]))
    from runs import RESULTS, write

    rows = [
        f"| {options.videos:,} videos | CPU s | of importing torch | peak MB added | MB kept |",
        "|---|---|---|---|---|",
    ]
    for way, done in runs.items():
        cells = [spread([run[key] for run in done[1:]]) for key in ("cpu", "ratio", "peak", "kept")]
        rows.append(f"| {WAYS[way]} | {' | '.join(cells)} |")
    table = "\n".join(rows)
    print(table)
    write(RESULTS / "large_sets.md", table)


def spread(values: list[float]) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})"


if __name__ == "__main__":
    main()
