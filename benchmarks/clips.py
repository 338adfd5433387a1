"""Tiny clips and a tiny net with random weights, for benchmarks of what lies around the net."""

from pathlib import Path

import av
import numpy as np
import pytorch_lightning as pl
import torch

from dynvid import UnifiedExitNet
from dynvid.module import DynamicInferenceModule


def make_net(path: Path, size: int = 32, frames: int = 4, thresholds: float = 0.22) -> None:
    """A checkpoint whose exits are about as often sure as not."""
    torch.manual_seed(0)
    net = UnifiedExitNet("test_resnet", num_classes=5, num_frames=frames, input_size=size)
    module = DynamicInferenceModule(net)
    module.class_names = list("abcde")
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    exits = len(net.route)
    module.set_thresholds(torch.tensor([thresholds] * (exits - 1) + [0.0]))
    trainer.save_checkpoint(path)


def make_clips(folder: Path, count: int, size: int = 32, frames: int = 8) -> list[str]:
    """Files of noise, of which every fifth has the same content."""
    draw, contents, paths = np.random.default_rng(0), [], []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(5):
        path = folder / f"{number:06d}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = size, size, "yuv420p"
            for _ in range(frames):
                image = draw.integers(0, 255, (size, size, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        contents.append(path.read_bytes())
    for number in range(count):
        paths.append(folder / f"{number:06d}.mp4")
        paths[-1].write_bytes(contents[number % 5])
    return list(map(str, paths))
