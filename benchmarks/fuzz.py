"""Damage videos at random and see what the reader makes of them: right frames or an error, never anything else.

    python benchmarks/fuzz.py --mutations 10000 --minutes 30

Small videos of every kind below are written, and by seed a copy of one is damaged: bits flipped, bytes overwritten, a
piece zeroed, cut out, repeated, or the end cut off. The reference is one plain decode of the damaged file with PyAV.
Counted are, of all mutations, those in which the reader

- handed out a frame with other pixels than the reference has at that time ("wrong"),
- handed out a frame that FFmpeg flags as damaged ("flagged"),
- raised something else than a VideoError, or took its process down ("crashed"), or took over 20 seconds ("slow");

and for information those with a frame unlike that of the undamaged video although neither reader nor FFmpeg notice
("unnoticed"), and those that were refused ("refused"), in whole or in part.
"""

import argparse
import io
import json
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as TooSlow
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np

from dynvid.data import VideoError, VideoReader

# Titles in unknown encodings stop older PyAV; from 19 on it sees to them itself.
METADATA = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
X264 = {"preset": "fast", "crf": "23", "threads": "1"}
KINDS = {
    "h264.mp4": ("libx264", X264 | {"g": "12", "bf": "3"}),
    "long_gop.mkv": ("libx264", X264 | {"g": "250", "bf": "3"}),
    "h264.avi": ("libx264", X264 | {"g": "12", "bf": "0"}),
    "h264.ts": ("libx264", X264 | {"g": "12", "bf": "2"}),
    "h264.flv": ("libx264", X264 | {"g": "12", "bf": "2"}),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=12:bframes=3:log-level=none:pools=none"}),
    "vp9.webm": ("libvpx-vp9", {"g": "15", "deadline": "realtime", "cpu-used": "8"}),
    "vp8.webm": ("libvpx", {"g": "15", "deadline": "realtime", "cpu-used": "8"}),
    "mpeg4.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg2.mpg": ("mpeg2video", {"g": "12", "bf": "2"}),
    "wmv.wmv": ("wmv2", {"g": "12"}),
    "mjpeg.avi": ("mjpeg", {}),
}
FRAMES, SIZE, LIMIT = 36, (96, 128), 20


def original(kind: str) -> bytes:
    """A video of that kind: blobs that move over a textured background."""
    codec, options = KINDS[kind]
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    grain = rng.integers(0, 40, (*SIZE, 3))
    file = io.BytesIO()
    with av.open(file, "w", format={"mkv": "matroska", "ts": "mpegts", "wmv": "asf", "mpg": "mpeg"}.get(
        kind.split(".")[1], kind.split(".")[1])) as container:  # fmt: skip
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        for t in range(FRAMES):
            centre = SIZE[1] * (0.5 + 0.4 * np.sin(0.3 * t)), SIZE[0] * (0.5 + 0.4 * np.cos(0.2 * t))
            blob = 150 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 300)
            image = np.clip(blob[..., None] + grain + (x + y)[..., None] // 3 + 2 * t, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A damaged copy."""
    data = bytearray(content)
    # Half of the damage goes anywhere, half past the headers, where most of a real file lies.
    first = rng.choice([0, min(800, len(data) // 4)])
    at = rng.randrange(first, len(data))
    length = rng.choice([1, 3, 10, 100, 1000])
    how = rng.choice(["bit", "bits", "bytes", "zero", "cut", "repeat", "end"])
    if how == "bit":
        data[at] ^= 1 << rng.randrange(8)
    elif how == "bits":
        for _ in range(length):
            data[rng.randrange(first, len(data))] ^= 1 << rng.randrange(8)
    elif how == "bytes":
        data[at : at + length] = rng.randbytes(min(length, len(data) - at))
    elif how == "zero":
        data[at : at + length] = bytes(min(length, len(data) - at))
    elif how == "cut":
        del data[at : at + length]
    elif how == "repeat":
        data[at:at] = data[at : at + length]
    else:
        del data[at:]
    return bytes(data)


def reference(content: bytes) -> tuple[list[tuple[float | None, bool, np.ndarray]], bool]:
    """Time, flag and RGB of every frame by plain decoding that goes on after errors; and whether there were none."""
    frames, whole = [], True
    with av.open(io.BytesIO(content), **METADATA) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_type = "NONE"
        times = []
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and not packet.is_discard:
                times.append(packet.pts)
            try:
                found = packet.decode()
            except av.FFmpegError:
                whole = False
                continue
            for frame in found:
                first = frames[0][2].shape if frames else (frame.height, frame.width)
                image = frame.to_ndarray(format="rgb24", width=first[1], height=first[0])
                frames.append((frame.pts, frame.is_corrupt, image))
        begin, base = min(times, default=0), float(stream.time_base or 1)
    return [(None if pts is None else (pts - begin) * base, flag, image) for pts, flag, image in frames], whole


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two images have the same pixels, however a damaged header turns them."""
    turns = [np.rot90(b, k) for k in range(4)]
    return any(np.array_equal(a, c) for turn in turns for c in (turn, turn[::-1]))


def judge(kind: str, content: bytes, whole: bytes, rng: random.Random) -> set[str]:
    """What the reader did with a damaged file."""
    try:
        reader = VideoReader(content)
    except VideoError:
        return {"refused"}
    try:
        frames, complete = reference(content)
    except (av.FFmpegError, ValueError):
        return set()
    undamaged = [image for _, _, image in reference(whole)[0]]
    found = set()
    for _ in range(4):
        wanted = [rng.randrange(len(reader)) for _ in range(rng.choice([1, 2, 4, 8]))]
        try:
            images = reader.read(wanted).permute(0, 2, 3, 1).numpy()
        except VideoError:
            found.add("refused")
            continue
        for i, image in zip(wanted, images, strict=True):
            # By its place where the reference has every frame, and by its time in any case.
            at = [f for f in frames if f[0] is not None and abs(f[0] - reader.timestamps[i]) < 0.5 / reader.fps]
            at += frames[i : i + 1] if complete and len(frames) == len(reader) else []
            right = [f for f in at if same(image, f[2])]
            if i < len(undamaged) and same(image, undamaged[i]):
                continue  # right in any case: plain decoding may carry damage on past where a new group begins
            if at and not right:
                found.add("wrong")
            elif right and all(flag for _, flag, _ in right):
                found.add("flagged")
            else:
                found.add("unnoticed")
    return found


def try_seeds(seeds: list[int]) -> list[tuple[int, str, set[str]]]:
    """Damage and judge, one file per seed."""
    av.logging.set_level(av.logging.PANIC)
    originals = {kind: original(kind) for kind in KINDS if KINDS[kind][0] in av.codecs_available}
    results = []
    for seed in seeds:
        rng = random.Random(seed)
        kind = rng.choice(sorted(originals))
        began = time.monotonic()
        try:
            found = judge(kind, damaged(originals[kind], rng), originals[kind], rng)
        except Exception as error:
            print(f"seed {seed}, {kind}: {type(error).__name__}: {error}", flush=True)
            found = {"crashed"}
        if time.monotonic() - began > LIMIT:
            found.add("slow")
        results.append((seed, kind, found))
    return results


def run(seeds: list[int]) -> list[tuple[int, str, set[str]]]:
    """`try_seeds` in a process of its own, so that a file that takes it down is found."""
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    try:
        return pool.submit(try_seeds, seeds).result(timeout=10 + LIMIT * max(len(seeds) / 10, 1))
    except (BrokenProcessPool, TooSlow) as error:
        for process in pool._processes.values():
            process.kill()
        if len(seeds) > 1:
            return [result for seed in seeds for result in run([seed])]
        return [(seeds[0], "", {"slow" if isinstance(error, TooSlow) else "crashed"})]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="First seed.")
    parser.add_argument("--minutes", type=float, default=30, help="Stop after this time.")
    parser.add_argument("--out", type=Path, help="A JSON file for the counts.")
    options = parser.parse_args()
    began, step = time.monotonic(), 250
    total: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for first in range(options.seed, options.seed + options.mutations, step):
        if time.monotonic() - began > 60 * options.minutes:
            break
        last = min(first + step, options.seed + options.mutations)
        for seed, kind, found in run(list(range(first, last))):
            total.update(["mutations", *found])
            for what in found - {"refused", "unnoticed"}:
                examples.setdefault(what, []).append(f"{kind} {seed}")
        print(dict(total), {what: seeds[-3:] for what, seeds in examples.items()}, flush=True)
    counts = {
        name: total[name] for name in ("mutations", "wrong", "flagged", "crashed", "slow", "unnoticed", "refused")
    }
    print(json.dumps(counts))
    if options.out:
        options.out.write_text(json.dumps(counts | {"examples": examples}, indent=2) + "\n")


if __name__ == "__main__":
    main()
