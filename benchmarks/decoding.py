"""What the first 1, 4, 8 and 16 frames of a clip cost, as a share of decoding all of it.

    python benchmarks/decoding.py FOLDER_WITH_VIDEOS ...

Measured is the processor's time of one thread, opening and conversion to RGB (short side 256) included, against opening
the file with PyAV and decoding all its frames without converting any; and the packets given to the decoder, against
those of the file. Frames are read in four steps, as a net that exits early asks for them: by `read`, where each step
begins at a key frame again, and by `clip`. Clips are taken as they are, and encoded again with key frames every 250 and
every 12 frames. Writes benchmarks/results/decoding.md and decoding.json.
"""

import argparse
import datetime
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import torch
from av.video.frame import PictureType
from runs import RESULTS, write

import dynvid
from dynvid.data import VIDEO_SUFFIXES, VideoReader, cheap_indices, segment_indices

# Titles in unknown encodings stop older PyAV; from 19 on it sees to them itself.
METADATA = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
FRAMES, SHORT_SIDE = 16, 256
STEPS = ((0, 1), (1, 4), (4, 8), (8, 16))
THUE_MORSE = [0, 3, 5, 6, 9, 10, 12, 15, 1, 2, 4, 7, 8, 11, 13, 14]
X264 = {"crf": "23", "x264-params": "b-adapt=0"}
Plan = tuple[list[int], list[int]]  # frames, and the order of visiting them


def by_thue_morse(reader: VideoReader) -> Plan:
    return segment_indices(len(reader), FRAMES).tolist(), THUE_MORSE


def by_time(reader: VideoReader) -> Plan:
    return segment_indices(len(reader), FRAMES).tolist(), list(range(FRAMES))


def by_cost(reader: VideoReader) -> Plan:
    indices = cheap_indices(reader.decode_costs, FRAMES)
    order = torch.argsort(torch.from_numpy(reader.decode_costs)[indices], stable=True)
    return indices.tolist(), order.tolist()


PLANS: dict[str, Callable[[VideoReader], Plan]] = {
    "centre frames, Thue-Morse": by_thue_morse,
    "centre frames, in time": by_time,
    "cheap frames, cheapest first": by_cost,
}


def whole(path: str) -> float:
    """Seconds of decoding everything."""
    started = time.process_time()
    with av.open(path, **METADATA) as container:
        container.streams.video[0].codec_context.thread_type = "NONE"
        for _ in container.decode(video=0):
            pass
    return time.process_time() - started


def in_steps(path: str, plan: Callable[[VideoReader], Plan], lazily: bool) -> tuple[list[float], list[int]]:
    """Seconds and packets spent when the frames of each step are there."""
    started = time.process_time()
    reader = VideoReader(path)
    decoder = reader._access.decoder
    indices, order = plan(reader)
    clip = reader.clip(indices, SHORT_SIDE) if lazily else None
    seconds, packets = [], []
    for start, stop in STEPS:
        positions = order[start:stop]
        if clip is None:
            reader.read([indices[position] for position in positions], SHORT_SIDE)
        else:
            clip.read(positions)
        seconds.append(time.process_time() - started)
        packets.append(decoder.packets_fed)
    return seconds, packets


def encoded(path: str, target: str, gop: int) -> str:
    """A copy in H.264, with key frames every `gop` frames and where scenes change, and B-frames everywhere."""
    with av.open(path, **METADATA) as source, av.open(target, "w") as container:
        video = source.streams.video[0]
        stream = container.add_stream("libx264", rate=video.average_rate, options=X264 | {"g": str(gop)})
        stream.height, stream.width, stream.pix_fmt = video.height // 2 * 2, video.width // 2 * 2, "yuv420p"
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(source.decode(video)):
            image = frame.reformat(stream.width, stream.height, "yuv420p")
            image.pts, image.time_base, image.pict_type = number, 1 / video.average_rate, PictureType.NONE
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return target


def measured(paths: list[str], repeats: int) -> dict[str, list[dict[str, list[float]]]]:
    """Of each way and clip the shares of time, of every repeat, and of packets."""
    found: dict[str, list[dict[str, list[float]]]] = {}
    for path in paths:
        with av.open(path, **METADATA) as container:
            total = sum(packet.size > 0 for packet in container.demux(video=0))
        seconds: dict[str, list[list[float]]] = {}
        packets: dict[str, list[int]] = {}
        wholes = []
        for _ in range(repeats):
            wholes.append(whole(path))
            for plan, function in PLANS.items():
                for lazily in (False, True):
                    name = f"{'clip' if lazily else 'read'}, {plan}"
                    spent, packets[name] = in_steps(path, function, lazily)
                    seconds.setdefault(name, []).append(spent)
        for name, runs in seconds.items():
            share = [statistics.median(step) / statistics.median(wholes) for step in zip(*runs, strict=True)]
            found.setdefault(name, []).append({"time": share, "packets": [n / total for n in packets[name]]})
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8, help="at most, of each folder, evenly taken")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions = f"{platform.machine()}, dynvid {dynvid.__version__}, PyAV {av.__version__}, one thread"
    lines = [
        "Share of decoding all of a clip that is spent when its first 1 / 4 / 8 / 16 frames are there: time of the",
        "processor, median over clips (each a median over repeats), lowest and highest in brackets; below it packets.",
        f"{datetime.date.today()}, {versions}.",
    ]
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        for folder in options.folders:
            name = Path(folder).name
            paths = sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
            paths = paths[:: max(1, len(paths) // options.clips)][: options.clips]
            sets = {f"{name}, as it is": paths}
            for gop in (250, 12):
                targets = [f"{temporary}/{name}_{gop}_{number}.mp4" for number in range(len(paths))]
                sets[f"{name}, key frames every {gop}"] = list(map(encoded, paths, targets, [gop] * len(paths)))
            for title, clips in sets.items():
                results[title] = measured(clips, options.repeats)
                lines += ["", f"## {title} ({len(clips)} clips)", "", "| | 1 | 4 | 8 | 16 |", "|---|---|---|---|---|"]
                for way, shares in results[title].items():
                    for kind in ("time", "packets"):
                        steps = zip(*(share[kind] for share in shares), strict=True)
                        cells = [f"{statistics.median(s):.0%} ({min(s):.0%} to {max(s):.0%})" for s in steps]
                        lines.append(f"| {way if kind == 'time' else 'packets'} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    write(RESULTS / "decoding.md", text)
    write(RESULTS / "decoding.json", json.dumps({"setting": versions, "shares": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
