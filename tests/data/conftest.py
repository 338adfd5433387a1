"""Tiny real videos, and the independent reference that every reader is held against."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from dynvid.data import store

# Titles in unknown encodings stop older PyAV; from 19 on it sees to them itself.
METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
Frames = NDArray[np.uint8]
WriteVideo = Callable[..., Path]


def draw(frames: int, height: int, width: int, seed: int = 0) -> Frames:
    """Moving blobs on a gradient: every frame differs, and motion makes the encoder use B-frames."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    images = np.empty((frames, height, width, 3), np.uint8)
    grain = rng.integers(0, 24, (height, width, 3))
    for t in range(frames):
        cx, cy = width * (0.5 + 0.4 * np.sin(0.23 * t + seed)), height * (0.5 + 0.4 * np.cos(0.17 * t))
        blob = 140 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (0.03 * width * height))
        images[t] = np.clip(blob[..., None] + np.stack([x, y, x + y], -1) * 60 // width + grain + t % 7, 0, 255)
    return images


def write(
    path: Path,
    frames: int = 40,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    fps: int = 25,
    seed: int = 0,
    rotation: int = 0,
) -> Path:
    """Write a video; `options` go to the encoder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if rotation and not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a rotation")
        if rotation:
            stream.set_display_rotation(rotation)
        for image in draw(frames, *size, seed=seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def decode_all(path: Path | str) -> list[Frames]:
    """Every frame by plain sequential decoding, RGB `(H, W, 3)`, upright."""
    with av.open(str(path), **METADATA) as container:
        frames = container.decode(video=0)
        return [np.rot90(f.to_ndarray(format="rgb24"), round(f.rotation / 90)) for f in frames]


def same(read: "object", reference: Sequence[Frames], indices: Sequence[int]) -> bool:
    """Whether a uint8 (T, C, H, W) tensor holds exactly these frames of the reference."""
    images = read.permute(0, 2, 3, 1).numpy()  # type: ignore[attr-defined]
    return len(images) == len(indices) and all(
        np.array_equal(image, reference[i]) for image, i in zip(images, indices, strict=True)
    )


@pytest.fixture(scope="session")
def write_video() -> WriteVideo:
    return write


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("DYNVID_REAL_DATA")
    if not folder:
        pytest.skip("DYNVID_REAL_DATA is not set: no real clips to test on")
    return Path(folder)


X264 = {"preset": "fast", "crf": "23", "threads": "1"}
KINDS: dict[str, dict[str, object]] = {
    "h264.mp4": {"options": X264 | {"g": "12", "bf": "3", "sc_threshold": "0"}},
    "one_gop.mkv": {"options": X264 | {"g": "250", "bf": "3", "x264-params": "b-pyramid=normal:b-adapt=0"}},
    "open_gop.mp4": {"options": X264 | {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0"}},
    "refresh.mkv": {"options": X264 | {"x264-params": "intra-refresh=1:keyint=12"}},
    "all_key.mp4": {"options": X264 | {"g": "1"}, "frames": 12},
    "h264_b.avi": {"options": X264 | {"g": "12", "bf": "2"}},
    "hevc.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=12:bframes=3:log-level=none:pools=none"},
    },
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "12"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "frames": 12},
    "vp9.webm": {
        "codec": "libvpx-vp9",
        "options": {
            "g": "15",
            "deadline": "realtime",
            "cpu-used": "5",
            "auto-alt-ref": "1",
            "lag-in-frames": "8",
        },
    },
    "vp8.webm": {
        "codec": "libvpx",
        "options": {
            "g": "15",
            "deadline": "good",
            "cpu-used": "5",
            "auto-alt-ref": "1",
            "lag-in-frames": "8",
        },
    },
    "ten_bit.mp4": {"options": X264 | {"g": "12"}, "pix_fmt": "yuv420p10le", "frames": 16},
    "av1.mp4": {
        "codec": "libsvtav1",
        "options": {"preset": "12", "g": "12", "svtav1-params": "lp=1"},
        "frames": 16,
    },
}


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Frames]]:
    """A video of each kind, and its frames."""
    path = tmp_path_factory.mktemp("kinds") / request.param
    settings = KINDS[request.param]
    if settings.get("codec", "libx264") not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {settings['codec']} encoder")
    write(path, **settings)  # type: ignore[arg-type]
    return path, decode_all(path)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """An address of object storage, and the folder of this machine that stands for it; for this process only."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    system = SubTreeFileSystem(str(folder), LocalFileSystem())
    monkeypatch.setattr(store, "_root", lambda root, options, process: (system, ""))
    return f"s3://{uuid4().hex}", folder  # what is open of a bucket stays so
