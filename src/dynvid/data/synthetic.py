"""Generated videos, so that a first run needs no download: some easy, some that only motion tells apart."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from dynvid.data.address import Address
from dynvid.data.dataset import OnError
from dynvid.data.files import read_json
from dynvid.data.folders import VideoFolderDataModule
from dynvid.data.sampling import Sampling
from dynvid.errors import InputError
from dynvid.text import printable

SHAPES = ("square", "triangle", "cross", "ring")
# Each motion is followed by its opposite: the same clip played backwards.
MOTIONS = ("left", "right", "up", "down", "grow", "shrink")
CLASSES = (*SHAPES, *MOTIONS)


@dataclass(frozen=True)
class Scene:
    """One clip before it is drawn. Lengths are shares of the frame's side.

    Position and size run around a circle (what leaves on the right comes back on the left, the largest disc is
    followed by the smallest), and the start is uniform on it. So each single frame looks the same on average,
    whichever way things go.

    Attributes:
        shape: One of `SHAPES`, or `disc`.
        motion: One of `MOTIONS`.
        start: Where the motion starts on its circle, in [0, 1).
        travel: Share of the circle covered in the clip; below 1, so that sampled frames do not alias.
        x, y: Centre, for the axes that do not move.
        radius: Size, where it does not change.
        angle: Rotation of the shape in radians.
        contrast: Difference between object and background in grey levels.
        noise: Standard deviation of the pixel noise in grey levels.
        seed: Of background, colour and noise.
    """

    shape: str
    motion: str
    start: float
    travel: float
    x: float
    y: float
    radius: float
    angle: float
    contrast: float
    noise: float
    seed: int


def draw_scene(label: str, rng: np.random.Generator) -> Scene:
    """Draw a scene of class `label`; easy ones are large and clear, hard ones small, faint and noisy.

    Example:
        >>> draw_scene("ring", np.random.default_rng(0)).shape
        'ring'
    """
    hard = rng.random()
    return Scene(
        shape=label if label in SHAPES else "disc",
        motion=label if label in MOTIONS else str(rng.choice(MOTIONS)),
        start=rng.random(),
        travel=rng.uniform(0.5, 0.8),
        x=rng.random(),
        y=rng.random(),
        radius=0.30 - 0.16 * hard,
        angle=rng.uniform(0, 2 * math.pi),
        contrast=130 - 70 * hard,
        noise=4 + 14 * hard,
        seed=int(rng.integers(2**31)),
    )


def render(scene: Scene, num_frames: int, size: int) -> NDArray[np.uint8]:
    """Draw a scene: uint8 RGB (num_frames, size, size, 3)."""
    rng = np.random.default_rng(scene.seed)
    background = rng.uniform(60, 130, 3) + 20 * _texture(rng, size)[..., None]
    tint = rng.uniform(0.6, 1.0, 3)
    tint /= tint.max()
    frames = []
    for t in range(num_frames):
        cover = _cover(scene, t / max(num_frames - 1, 1), size)[..., None]
        noise = rng.normal(0, scene.noise, (size, size, 3))
        frames.append(background + cover * scene.contrast * tint + noise)
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def write_clip(path: Path, frames: NDArray[np.uint8], fps: int = 12) -> None:
    """Write uint8 RGB (T, H, W, 3) as H.264 mp4.

    Every frame is a key frame at constant quality, so that no frame carries traces of the one before, which would
    tell the direction of a motion.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": "1", "qp": "18", "preset": "ultrafast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


class SyntheticDataModule(VideoFolderDataModule):
    """Generated clips of ten classes, written once as mp4 files in the folder layout that you would use yourself.

    Four classes are told by shape, so one frame is enough; six are discs that move left, right, up or down, grow or
    shrink, where no single frame tells the class and a clip played backwards belongs to the opposite class.
    Contrast, noise and size vary.

    Args:
        root: Folder for the clips; made on first use.
        num_frames: Frames T of a clip as the net sees it.
        size: Height and width in pixels, even; of the files too.
        batch_size: Clips per batch.
        clips_per_class: Training clips of each class; validation and test have half as many each.
        clip_frames: Frames per file.
        seed: Of the clips.

    Raises:
        ValueError: `root` holds clips made with other arguments, or something else; or the size is odd.
    """

    def __init__(
        self,
        root: str | Path = "data/synthetic",
        num_frames: int = 8,
        size: int = 64,
        batch_size: int = 32,
        clips_per_class: int = 120,
        clip_frames: int = 24,
        seed: int = 0,
        *,
        num_workers: int | None = None,
        mixup: float = 0.0,
        on_error: OnError = "raise",
        max_missing: float = 0.0,
        exclude: str | Path | None = None,
        val_fraction: float = 0.1,
        test_clips: int = 1,
        test_crops: Literal[1, 3] = 1,
        sampling: Sampling = "center",
        balanced: bool = False,
        background: str | None = None,
    ) -> None:
        if size % 2:
            raise InputError(f"size={size}: H.264 needs an even number of pixels")
        super().__init__(
            root,
            num_frames=num_frames,
            size=size,
            batch_size=batch_size,
            num_workers=num_workers,
            hflip=False,  # a mirrored "left" is a "right"
            mixup=mixup,
            on_error=on_error,
            max_missing=max_missing,
            exclude=exclude,
            val_fraction=val_fraction,
            test_clips=test_clips,
            test_crops=test_crops,
            sampling=sampling,
            balanced=balanced,
            background=background,
        )
        self.min_area = 0.7  # as the centre crop of the test: a smaller part would not show the whole motion
        self.clips_per_class, self.clip_frames, self.clip_seed = clips_per_class, clip_frames, seed

    @property
    def class_names(self) -> list[str]:
        """The ten classes; known before the clips are there."""
        return sorted(CLASSES)

    def prepare_data(self) -> None:
        """Write the clips, all or nothing: they appear under `root` when the last one is there."""
        root, hint = self.root, "remove it or choose another root"
        if isinstance(root, Address):
            raise InputError(f"{printable(root)}: generated clips are written to a disk; choose a folder there")
        recipe = {
            "clips_per_class": self.clips_per_class,
            "clip_frames": self.clip_frames,
            "seed": self.clip_seed,
        }
        recipe |= {"size": self.size, "version": 1}
        marker = root / "recipe.json"
        if root.exists():
            if not marker.is_file() or read_json(marker, hint) != recipe:
                raise InputError(f"{printable(root)}: holds other files than clips made with {recipe}; {hint}")
            return
        root.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
        try:
            for path, scene in self._scenes():
                (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
                write_clip(unfinished / path, render(scene, self.clip_frames, self.size))
            (unfinished / "recipe.json").write_text(json.dumps(recipe))
            unfinished.chmod(0o755)  # mkdtemp's folders are private
            try:
                os.replace(unfinished, root)
            except OSError:  # another process was faster
                if not marker.is_file() or read_json(marker, hint) != recipe:
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _scenes(self) -> Iterator[tuple[Path, Scene]]:
        splits: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
        for number, split in enumerate(splits):
            count = self.clips_per_class if split == "train" else math.ceil(self.clips_per_class / 2)
            for position, label in enumerate(CLASSES):
                rng = np.random.default_rng((self.clip_seed, number, position))
                for clip in range(count):
                    yield Path(split, label, f"{label}_{clip:04d}.mp4"), draw_scene(label, rng)


def _cover(scene: Scene, time: float, size: int) -> NDArray[np.float64]:
    """How much of each pixel the object covers, (size, size) in [0, 1], at `time` in [0, 1]."""
    backwards = scene.motion in ("left", "up", "shrink")
    phase = (scene.start + (-scene.travel if backwards else scene.travel) * time) % 1.0
    x = phase if scene.motion in ("left", "right") else scene.x
    y = phase if scene.motion in ("up", "down") else scene.y
    radius = 0.08 + 0.27 * phase if scene.motion in ("grow", "shrink") else scene.radius
    centres = (np.arange(size) + 0.5) / size
    # The frame is a torus: distances are to the nearest copy of the object.
    dx = (centres[None, :] - x + 0.5) % 1.0 - 0.5
    dy = (centres[:, None] - y + 0.5) % 1.0 - 0.5
    cos, sin = math.cos(scene.angle), math.sin(scene.angle)
    return np.clip(0.5 - size * _distance(scene.shape, dx * cos + dy * sin, dy * cos - dx * sin, radius), 0, 1)


def _distance(shape: str, u: NDArray[np.float64], v: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Signed distance to the edge of a shape, negative inside."""
    distance: NDArray[np.float64]
    if shape == "disc":
        distance = np.hypot(u, v) - radius
    elif shape == "ring":
        distance = np.abs(np.hypot(u, v) - 0.75 * radius) - 0.25 * radius
    elif shape == "square":
        distance = np.maximum(np.abs(u), np.abs(v)) - 0.85 * radius
    elif shape == "cross":
        arm = 0.28 * radius
        along = np.maximum(np.abs(u) - radius, np.abs(v) - arm)
        distance = np.minimum(along, np.maximum(np.abs(v) - radius, np.abs(u) - arm))
    else:  # equilateral triangle
        slanted = 0.5 * np.sqrt(3) * np.abs(u) + 0.5 * v
        distance = np.maximum(slanted, -v) - 0.55 * radius
    return distance


def _texture(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """A smooth random pattern, (size, size) in about [-1, 1]."""
    coarse = rng.normal(0, 0.5, (4, 4))
    grid = np.linspace(0, 3, size)
    low = np.minimum(grid.astype(int), 2)
    part = grid - low
    rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
    texture: NDArray[np.float64] = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return texture
