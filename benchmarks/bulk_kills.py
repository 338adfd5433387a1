"""Kill `dynvid classify --out` at random moments, take it up, and count the rows: nothing may be lost, nothing doubled.

    python benchmarks/bulk_kills.py --kills 20 --seed 0
    python benchmarks/bulk_kills.py --engine ray --kills 6 --seed 0

Local runs lose the parent, the process that reads, both, or the whole process group, in turns; every fifth kill falls
while the run is coming up. Runs on Ray, on two actors of this machine, lose an actor, a process that reads, or the
driver. Some of the videos are damaged, and two kill the process that opens them. Writes
benchmarks/results/bulk_kills.json, or bulk_kills_ray.json.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from clips import make_clips, make_net
from runs import RESULTS, write

from dynvid.inference import parts_of

SIGNALS = {"local": ("parent", "child", "both", "group"), "ray": ("actor", "child", "driver")}
PARENT = """
import sys
from dynvid.inference import label_files
model, out, engine, address, *videos = sys.argv[1:]
where = {"engine": "ray", "actors": 2, "address": address} if engine == "ray" else {}
label_files(model, open(videos[0]).read().split(), out, part_seconds=1, part_rows=500, **where)
"""
# Opening such a file is what kills: the reader cannot tell it from a crash of its decoder.
CULPRITS = """
import os, signal, sys
def hook(event, arguments):
    if event == "open" and "culprit" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGSEGV)
sys.addaudithook(hook)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--videos", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = vars(options) | kill(Path(name), options)
    file = "bulk_kills.json" if options.engine == "local" else "bulk_kills_ray.json"
    write(RESULTS / file, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def kill(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    draw, sent, out = random.Random(options.seed), Counter[str](), folder / "results"
    make_net(folder / "net.ckpt")
    names = make_clips(folder / "clips", options.videos)
    for number in range(10):
        (folder / "clips" / f"damaged_{number}.mp4").write_bytes(b"no video")
    for number in range(2):
        (folder / "clips" / f"culprit_{number}.mp4").write_bytes(Path(names[0]).read_bytes())
    names = sorted(map(str, (folder / "clips").iterdir()))
    draw.shuffle(names)
    (folder / "list.txt").write_text("\n".join(names))
    (folder / "hooks").mkdir()
    (folder / "hooks" / "sitecustomize.py").write_text(CULPRITS)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder / "hooks"), os.environ.get("PYTHONPATH")]))
    address = ""
    if options.engine == "ray":
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", PARENT, folder / "net.ckpt", out, options.engine, address, folder / "list.txt"]
    done: set[str] = set()
    lost = doubled = unread = 0
    run = None
    while sent.total() < options.kills:
        if run is None or run.poll() is not None:
            if run is not None and run.returncode == 0:
                sys.exit(f"all is done after {sent.total()} kills: give more --videos")
            before = standing(out)
            run = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        whom = SIGNALS[options.engine][sent.total() % len(SIGNALS[options.engine])]
        if sent.total() % 5 < 4:
            wait_for_work(run, out, before)
        time.sleep(draw.uniform(0, 4))
        if not strike(run, whom):
            continue
        sent[whom] += 1
        now = rows_in(out)
        doubled += len(now) - len(set(now))
        lost += len(done - set(now))
        done = set(now)
        print(f"{sent.total()}/{options.kills} {whom}: {len(done)} of {len(names)} rows", flush=True)
    assert run is not None
    if run.poll() is None:
        run.wait()
    ended = run.returncode
    if ended != 0:
        ended = subprocess.run(command).returncode
    found, blamed = Counter(rows_in(out)), blamed_in(out)
    unread = sum("cannot open" in (row["error"] or "") for row in table(out))
    return {
        "videos_in_all": len(names),
        "signals": dict(sent),
        "went_on_to_the_end": ended == 0,
        "rows": found.total(),
        "rows_lost": lost + len(set(names) - set(found)),
        "rows_doubled": doubled + found.total() - len(found),
        "unreadable_files_named": unread,
        "culprits_set_aside": len([name for name in blamed if "culprit" in name]),
        "innocent_videos_set_aside": len([name for name in blamed if "culprit" not in name]),
        "parts": len(parts_of(out)),
    }


def strike(run: subprocess.Popen[bytes], whom: str) -> bool:
    """Kill a process of a run; whether there was one."""
    if run.poll() is not None:
        return False
    if whom in ("child", "both", "actor"):
        wanted = b"ray::MapWorker" if whom == "actor" else b"dynvid.inference.bulk.child"
        mine = [
            pid
            for pid in processes()
            if wanted in command_of(pid) and (whom != "actor" or b"MapWorker" in command_of(pid))
        ]
        if not mine:
            return False
        os.kill(mine[0], signal.SIGKILL)
    if whom in ("parent", "both", "group", "driver"):
        (os.killpg if whom == "group" else os.kill)(run.pid, signal.SIGKILL)
        run.wait()
    return True


def processes() -> list[int]:
    """All that descend from this one."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sorted(mine - {os.getpid()})


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def standing(out: Path) -> tuple[int, int, int]:
    """What changes when a run begins a video: the journal's file and size; on Ray, which has none, the rows."""
    try:
        journal = (out / "begun.journal").stat()
        return journal.st_ino, journal.st_size, 0
    except FileNotFoundError:
        return 0, 0, len(rows_in(out))


def wait_for_work(run: subprocess.Popen[bytes], out: Path, before: tuple[int, int, int]) -> None:
    """Until the run has begun a video, or is over; the journal is first written anew, then grows."""
    while run.poll() is None:
        now = standing(out)
        if now[0] == before[0] and (now[1] > before[1] or now[2] > before[2]):
            return
        if now[0] != before[0]:
            before = now
        time.sleep(0.02)


def table(out: Path) -> list[dict[str, object]]:
    if not (out / "manifest.json").exists():
        return []
    return [row for part in parts_of(out) for row in pq.read_table(part, columns=["path", "error"]).to_pylist()]


def rows_in(out: Path) -> list[str]:
    return [str(row["path"]) for row in table(out)]


def blamed_in(out: Path) -> list[str]:
    return [str(row["path"]) for row in table(out) if "the process that read it" in str(row["error"])]


if __name__ == "__main__":
    main()
