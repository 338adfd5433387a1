"""Clips from files, from shards and from a store that speaks S3, in turns.

    pip install 'dynvid[litdata]'  # which brings the store
    python benchmarks/stores.py FOLDER_WITH_VIDEOS ...

In one process and one thread, in an order drawn anew each time: the bytes of a clip, and an item of a `VideoDataset`
(8 frames of 224 pixels in evaluation). The store is moto's server on the same machine, in Python: its times say how
much comes on top where the network is not. Requests are counted where pyarrow is asked for bytes; every file of its own
is asked for its size besides, a shard once. Writes benchmarks/results/stores.json.
"""

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pyarrow.fs import FileSystem
from runs import RESULTS, write

from dynvid.data import VIDEO_SUFFIXES, Video, VideoDataset, VideoFolderDataModule, eval_transform, pack, store
from dynvid.data.manifest import MANIFEST, read_manifest
from dynvid.data.members import Member, source_of
from dynvid.inference.machine import machine

SHARD = 16 * 10**6


def content(path: str) -> bytes:
    source = source_of(path)
    return Path(source).read_bytes() if isinstance(source, str) else source.read()


def item(path: str) -> object:
    return VideoDataset([Video(path, 0)], 8, eval_transform(224), short_side=256)[0]


def in_shards(root: str) -> dict[str, str]:
    """Paths of packed clips, by their names."""
    found = store.read(store.inside(root, MANIFEST))
    assert found is not None
    clips = read_manifest(found, root).clips
    return {
        Path(clip.path).name: Member(store.inside(root, clip.shard), clip.offset, clip.length, clip.path).path
        for clip in clips
    }


def in_turns(ask: Callable[[str], object], places: dict[str, dict[str, str]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each place for all clips, repeat by repeat."""
    seconds: dict[str, list[float]] = {place: [] for place in places}
    names = sorted(places["file"])
    for repeat in range(repeats + 1):
        spent = dict.fromkeys(places, 0.0)
        order = [(place, name) for place in places for name in names]
        random.Random(repeat).shuffle(order)
        for place, name in order:
            began = time.perf_counter()
            ask(places[place][name])
            spent[place] += time.perf_counter() - began
        for place in places if repeat else ():  # the first warms the disk's cache and opens the shards
            seconds[place].append(spent[place])
    return seconds


class Counted:
    """A file of pyarrow's that counts what it is asked for."""

    requests: tuple[int, ...] = ()

    def __init__(self, file: object) -> None:
        self.file = file

    def size(self) -> int:
        return self.file.size()  # type: ignore[attr-defined, no-any-return]

    def read_at(self, size: int, offset: int) -> bytes:
        read: bytes = self.file.read_at(size, offset)  # type: ignore[attr-defined]
        Counted.requests += (len(read),)
        return read


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40, help="at most, evenly taken")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ |= {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    everything = (path for folder in options.folders for path in Path(folder).rglob("*"))
    paths = sorted(path for path in everything if path.suffix.lower() in VIDEO_SUFFIXES)
    paths = paths[:: max(1, len(paths) // options.clips)][: options.clips]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with tempfile.TemporaryDirectory() as folder:
            write(RESULTS / "stores.json", json.dumps(measured(Path(folder), paths, port, options.repeats), indent=2))
    finally:
        server.kill()


def measured(folder: Path, paths: list[Path], port: int, repeats: int) -> dict[str, object]:
    """All figures."""
    videos = folder / "videos"
    (videos / "train" / "x").mkdir(parents=True)
    names = {}
    for number, path in enumerate(paths):
        names[f"{number}{path.suffix.lower()}"] = path
        shutil.copy(path, videos / "train" / "x" / f"{number}{path.suffix.lower()}")
    at = f"?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    for _ in range(300):
        try:
            system, _ = FileSystem.from_uri(f"s3://corpus/{at}&allow_bucket_creation=true")
            system.create_dir("corpus")
            break
        except OSError:
            time.sleep(0.1)
    for name in names:
        with system.open_output_stream(f"corpus/videos/{name}") as file:
            file.write((videos / "train" / "x" / name).read_bytes())
    data = VideoFolderDataModule(videos, val_fraction=0.01)
    roots = {"tar": str(folder / "tar"), "litdata": str(folder / "litdata"), "s3, tar": f"s3://corpus/tar{at}"}
    for place, root in roots.items():
        pack(data, root, "litdata" if place == "litdata" else "webdataset", SHARD)
    places = {
        "file": {name: str(videos / "train" / "x" / name) for name in names},
        **{place: in_shards(root) for place, root in roots.items()},
        "s3, file": {name: f"s3://corpus/videos/{name}{at}" for name in names},
    }
    for name in names:
        assert len({content(paths[name]) for paths in places.values()}) == 1
    found: dict[str, object] = {"clips": len(names), "shard_bytes": SHARD}
    for what, ask in (("bytes", content), ("item", item)):
        seconds = in_turns(ask, places, repeats)
        for place in places:
            ratios = [mine / files for mine, files in zip(seconds[place], seconds["file"], strict=True)]
            found[f"{what}, {place}"] = {
                "ms_per_clip": round(1000 * statistics.median(seconds[place]) / len(names), 2),
                "times_a_file": [round(f(ratios), 3) for f in (statistics.median, min, max)],
            }
    sizes = [path.stat().st_size for path in paths]
    opened, store._open = store._open, lambda path: Counted(opened(path))
    store._opened.cache_clear()
    for place in ("s3, file", "s3, tar"):
        Counted.requests = ()
        for path in places[place].values():
            item(path)
        found[f"requests, {place}"] = {
            "per_clip": round(len(Counted.requests) / len(names), 3),
            "bytes_over_size": round(sum(Counted.requests) / sum(sizes), 3),
        }
    store._open = opened
    found["median_clip_bytes"] = int(statistics.median(sizes))
    found["machine"] = machine(torch.device("cpu"))
    return found


if __name__ == "__main__":
    main()
