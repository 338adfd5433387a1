"""Clips per second and core: dynvid's reading of a clip against torchcodec and against decoding everything with PyAV.

    pip install torchcodec  # and FFmpeg's libraries
    python benchmarks/loader.py --name real FOLDER_WITH_VIDEOS ...

Each of the three gives the same 16 frames of a clip, one per TSN segment, as uint8 (16, 3, 224, 224) by the evaluation
transform, in one thread of one process. They take turns on every clip; writes benchmarks/results/loader_NAME.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from runs import RESULTS, write
from torchcodec.decoders import VideoDecoder

from dynvid.data import VIDEO_SUFFIXES, decode_size, eval_transform, open_video, segment_indices

# Titles in unknown encodings stop older PyAV; from 19 on it sees to them itself.
METADATA = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
FRAMES, SIZE = 16, 224
transform = eval_transform(SIZE)


def by_dynvid(path: str, short_side: int | None = decode_size(SIZE)) -> torch.Tensor:
    reader = open_video(path)
    return reader.read(segment_indices(len(reader), FRAMES), short_side)


def by_torchcodec(path: str) -> torch.Tensor:
    decoder = VideoDecoder(path, num_ffmpeg_threads=1)
    return decoder.get_frames_at(indices=segment_indices(len(decoder), FRAMES).tolist()).data


def by_pyav(path: str) -> torch.Tensor:
    with av.open(path, **METADATA) as container:
        container.streams.video[0].codec_context.thread_count = 1
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    chosen = np.stack([images[i] for i in segment_indices(len(images), FRAMES)])
    return torch.from_numpy(chosen).permute(0, 3, 1, 2)


LOADERS: dict[str, Callable[[str], torch.Tensor]] = {
    "dynvid": by_dynvid,
    "torchcodec": by_torchcodec,
    "PyAV, everything": by_pyav,
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--clips", type=int, default=40, help="at most, of each folder, evenly taken")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "Time of all clips in multiples of dynvid's, median over repeats, lowest and highest in brackets. Above 1,",
        "dynvid is faster. Exact: clips of which all 16 frames, before the transform, are those that PyAV gives when",
        "it decodes everything.",
        "",
        f"| clips | number | dynvid | {' | '.join(list(LOADERS)[1:])} | exact, dynvid | exact, torchcodec |",
        "|---|---|---|---|---|---|---|",
    ]
    for folder in options.folders:
        paths = sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
        paths = paths[:: max(1, len(paths) // options.clips)][: options.clips]
        seconds = {name: np.zeros((len(paths), options.repeats)) for name in LOADERS}
        exact = {"dynvid": 0, "torchcodec": 0}
        for column, path in enumerate(paths):
            reference = by_pyav(path)
            exact["dynvid"] += torch.equal(by_dynvid(path, short_side=None), reference)
            exact["torchcodec"] += torch.equal(by_torchcodec(path), reference)
            for repeat in range(options.repeats):
                for name, load in LOADERS.items():
                    started = time.process_time()
                    assert transform(load(path)).shape == (FRAMES, 3, SIZE, SIZE)
                    seconds[name][column, repeat] = time.process_time() - started
        of_clip = {name: np.median(values, axis=1) for name, values in seconds.items()}
        cells = [f"{len(paths) / of_clip['dynvid'].sum():.1f} clips/s"]
        for name in list(LOADERS)[1:]:
            total = seconds[name].sum(0) / seconds["dynvid"].sum(0)
            cells.append(f"{statistics.median(total):.2f} ({total.min():.2f} to {total.max():.2f})")
        lines.append(
            f"| {Path(folder).name} | {len(paths)} | {' | '.join(cells)} | {exact['dynvid']} | {exact['torchcodec']} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    write(RESULTS / f"loader_{options.name}.md", text)


if __name__ == "__main__":
    main()
