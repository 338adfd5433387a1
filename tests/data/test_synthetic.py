"""The generated clips are honest: no single frame tells a direction, and time reversed is the opposite class."""

import json
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvid.data import SyntheticDataModule, VideoReader
from dynvid.data.synthetic import CLASSES, MOTIONS, draw_scene, render, write_clip

PAIRS = list(zip(MOTIONS[::2], MOTIONS[1::2], strict=True))


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(PAIRS), st.integers(0, 9999))
def test_backwards_belongs_to_the_opposite_class(pair, seed):
    scene = replace(draw_scene(pair[0], np.random.default_rng(seed)), noise=0.0)
    first, last = (scene.start, scene.start + scene.travel * (-1 if pair[0] in ("left", "up", "shrink") else 1))
    opposite = replace(scene, motion=pair[1], start=last % 1.0)
    assert first != last
    forwards, backwards = render(scene, 9, 32), render(opposite, 9, 32)
    assert np.abs(forwards[::-1].astype(int) - backwards).max() <= 1  # rounding of positions
    assert np.abs(forwards.astype(int) - backwards).max() > 20


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("time", [0.0, 0.4, 1.0])
def test_position_at_any_time_is_uniform_for_both_directions(pair, time):
    """First and last frame included: the phase, which is all that the motion changes, has the same distribution."""
    for label in pair:
        rng = np.random.default_rng(7)
        scenes = [draw_scene(label, rng) for _ in range(4000)]
        sign = -1 if label in ("left", "up", "shrink") else 1
        phases = np.array([(s.start + sign * s.travel * time) % 1.0 for s in scenes])
        counts, _ = np.histogram(phases, bins=20, range=(0, 1))
        chi2 = ((counts - 200) ** 2 / 200).sum()
        assert chi2 < 43.8  # 99.9 % quantile of chi-squared with 19 degrees of freedom


def test_frames_of_a_pair_have_equal_means_and_spread():
    """On the pixels themselves: the first frames of two opposite classes, drawn with independent scenes."""
    means = []
    for label, seed in (("grow", 1), ("shrink", 2)):
        rng = np.random.default_rng(seed)
        first = np.stack([render(draw_scene(label, rng), 2, 16)[0] for _ in range(400)]).astype(float)
        means.append((first.mean((1, 2, 3)), first.std((1, 2, 3))))
    for a, b in zip(*means, strict=True):
        assert abs(a.mean() - b.mean()) < 3.3 * np.hypot(a.std(), b.std()) / 20


def test_frames_are_coded_independently(tmp_path):
    rng = np.random.default_rng(0)
    frames = render(draw_scene("left", rng), 6, 64)
    write_clip(tmp_path / "all.mp4", frames)
    write_clip(tmp_path / "one.mp4", frames[3:4])
    with av.open(str(tmp_path / "all.mp4")) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    assert all(p.is_keyframe for p in packets)
    among_others, alone = VideoReader(tmp_path / "all.mp4").read([3]), VideoReader(tmp_path / "one.mp4").read([0])
    assert torch.equal(among_others, alone)


def test_data_module_writes_balanced_real_files_once(tmp_path):
    data = SyntheticDataModule(tmp_path / "clips", clips_per_class=4, clip_frames=6, num_workers=0, batch_size=8)
    data.prepare_data()
    files = sorted((tmp_path / "clips").rglob("*.mp4"))
    assert len(files) == 10 * (4 + 2 + 2)
    written = files[0].stat().st_mtime_ns
    data.prepare_data()
    assert files[0].stat().st_mtime_ns == written
    assert data.class_names == sorted(CLASSES)
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape == (8, 8, 3, 64, 64)
    assert batch["video"].dtype == torch.uint8
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_other_arguments_do_not_overwrite(tmp_path):
    SyntheticDataModule(tmp_path / "clips", clips_per_class=1, clip_frames=2, size=32).prepare_data()
    before = json.loads((tmp_path / "clips" / "recipe.json").read_text())
    with pytest.raises(ValueError, match="remove it or choose another root"):
        SyntheticDataModule(tmp_path / "clips", clips_per_class=2, clip_frames=2, size=32).prepare_data()
    assert json.loads((tmp_path / "clips" / "recipe.json").read_text()) == before


def test_same_seed_same_clips(tmp_path):
    for name in "ab":
        SyntheticDataModule(tmp_path / name, clips_per_class=1, clip_frames=2, size=32).prepare_data()
    a, b = (VideoReader(tmp_path / name / "train" / "ring" / "ring_0000.mp4").read([0, 1]) for name in "ab")
    assert torch.equal(a, b)


def test_an_odd_size_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"size=63: H\.264 needs an even number"):
        SyntheticDataModule(tmp_path / "clips", size=63)
