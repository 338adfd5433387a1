"""Clips: frames told once are read in any order, are those of `read`, and cost no packet twice."""

import random
import threading
from pathlib import Path

import av
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynvid.data import FrameFolder, VideoReader, segment_indices
from dynvid.data.reading.access import RandomAccess
from dynvid.data.reading.reader import Clip, FrameReader
from dynvid.errors import DamagedVideoError, FrameIndexError, VideoError

from .conftest import METADATA, Frames, WriteVideo, decode_all, same
from .test_reading import FIRST, REAL_FILES, SECOND, X264, join_mkv, with_damage

NETS_ORDER = [0, 3, 5, 6, 9, 10, 12, 15, 1, 2, 4, 7, 8, 11, 13, 14]


def num_packets(path: Path) -> int:
    with av.open(str(path), **METADATA) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def read_both(reader: FrameReader, clip: Clip, position: int) -> bool:
    """Whether a clip gives the pixels that reading gives, or the same error."""
    answers = []
    for read in (lambda: clip.read([position]), lambda: reader.read([clip.indices[position]], clip._short_side)):
        try:
            answers.append(read())
        except VideoError as error:
            answers.append(str(error))
    one, two = answers
    return one == two if isinstance(one, str) or isinstance(two, str) else torch.equal(one, two)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_equals_a_full_decode(kind: tuple[Path, list[Frames]], data: st.DataObject) -> None:
    path, reference = kind
    reader = VideoReader(path)
    indices = data.draw(st.lists(st.integers(0, len(reference) - 1), min_size=1, max_size=16))
    order = data.draw(st.permutations(range(len(indices))))
    steps = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    clip, at, turn = reader.clip(torch.tensor(indices)), 0, 0
    while at < len(order):
        asked = order[at : at + steps[turn % len(steps)]]
        assert same(clip.read(asked), reference, [indices[p] for p in asked]), asked
        at, turn = at + len(asked), turn + 1
    if isinstance(reader._access, RandomAccess):
        assert clip._parked is not None
        assert not clip._parked._parked  # all decoders and frames are let go
        # Beyond the packets: those for the size of the first frame. Gradual refresh is found out by trying.
        allowed = 2 * len(reference) if path.stem == "refresh" else num_packets(path) + 2
        assert clip.packets_fed <= allowed, indices
    # Once more: what was handed out is decoded again.
    assert same(clip.read(order[:2]), reference, [indices[p] for p in order[:2]])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gop=st.integers(2, 20),
    bf=st.integers(0, 4),
    is_open=st.booleans(),
    seed=st.integers(0, 9),
    order=st.permutations(range(8)),
)
def test_every_group_size(
    tmp_path_factory: pytest.TempPathFactory,
    write_video: WriteVideo,
    gop: int,
    bf: int,
    is_open: bool,
    seed: int,
    order: list[int],
) -> None:
    params = f"open-gop={int(is_open)}:keyint={gop}:min-keyint={min(gop, 2)}:bframes={bf}:b-adapt=0"
    path = write_video(
        tmp_path_factory.mktemp("gops") / "a.mp4",
        frames=30,
        size=(32, 48),
        options={"preset": "ultrafast", "threads": "1", "x264-params": params},
    )
    reference, reader = decode_all(path), VideoReader(path)
    indices = sorted(random.Random(seed).sample(range(30), 8))
    clip, most = reader.clip(indices), 0
    for position in order:
        assert same(clip.read([position]), reference, [indices[position]])
        if not isinstance(reader._access, RandomAccess):
            continue
        most = max(most, len(clip._parked._parked))
    assert clip.packets_fed <= 30
    assert most <= len(reader.key_frames)


def test_a_clip_is_no_dearer_than_one_read_in_order(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.mp4", frames=64, options=X264 | {"g": "250", "bf": "3"})
    indices = segment_indices(64, 16)
    clip, reader = VideoReader(path).clip(indices), VideoReader(path)
    for position in NETS_ORDER:
        clip.read([position])
        reader.read([int(indices[position])])
    assert clip.packets_fed <= 64
    assert reader._access.decoder.packets_fed > 4 * 64  # what it saves


def test_decode_costs_are_what_is_fed(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.mkv", options=X264 | {"g": "12"})
    reader = VideoReader(path)
    for i, cost in enumerate(reader.decode_costs.tolist()):
        once = VideoReader(path)
        once.read([i])
        assert once._access.decoder.packets_fed == cost
    assert [i for i, cost in enumerate(reader.decode_costs) if cost == 1] == reader.key_frames


def test_frames_that_repeat_are_decoded_once(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.mp4", frames=3)
    reference, clip = decode_all(path), VideoReader(path).clip(segment_indices(3, 16), short_side=None)
    for position in reversed(range(16)):
        assert same(clip.read([position]), reference, [clip.indices[position]])
    assert clip.packets_fed <= 3
    assert same(clip.read([4, 4]), reference, [clip.indices[4]] * 2)


def test_short_side_errors_and_no_positions(tmp_path: Path, write_video: WriteVideo) -> None:
    reader = VideoReader(write_video(tmp_path / "a.mp4"))
    clip = reader.clip([7, 30], short_side=24)
    assert len(clip) == 2
    assert torch.equal(clip.read([1, 0]), reader.read([30, 7], short_side=24))
    assert clip.read([]).shape == (0, 3, 24, 32)
    with pytest.raises(FrameIndexError, match=r"a\.mp4: position 2 is out of range, the clip has 2 frames"):
        clip.read([0, 2])
    with pytest.raises(FrameIndexError, match="frame 40 is out of range"):
        reader.clip([3, 40])


def test_folders_of_frames(tmp_path: Path, write_video: WriteVideo) -> None:
    from PIL import Image

    for number, image in enumerate(decode_all(write_video(tmp_path / "a.mp4", frames=5))):
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "frames" / f"{number}.png")
    reader = FrameFolder(tmp_path / "frames")
    clip = reader.clip([4, 1, 1])
    assert torch.equal(clip.read([2, 0]), reader.read([1, 4]))
    assert clip.packets_fed == 0


@pytest.mark.parametrize("degrees", [0, 90])
def test_decoders_of_later_groups_know_how_frames_are_turned(
    tmp_path: Path, write_video: WriteVideo, degrees: int
) -> None:
    path = write_video(tmp_path / "a.mp4", options=X264, rotation=degrees)
    reference, clip = decode_all(path), VideoReader(path).clip([2, 13, 38])
    for position in (2, 0, 1):
        assert same(clip.read([position]), reference, [clip.indices[position]])


@pytest.mark.parametrize("every_key_frame", [True, False])
def test_parameter_sets_that_change(tmp_path: Path, write_video: WriteVideo, every_key_frame: bool) -> None:
    first = write_video(tmp_path / "first.mp4", options=FIRST)
    second = write_video(tmp_path / "second.mp4", options=SECOND, seed=5)
    path = join_mkv(first, second, tmp_path / "joined.mkv", every_key_frame)
    reference, reader = decode_all(path), VideoReader(path)
    clip = reader.clip(segment_indices(len(reader), 16))
    for position in NETS_ORDER:
        assert same(clip.read([position]), reference, [clip.indices[position]])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 39), order=st.permutations(range(10)), bf=st.sampled_from([0, 3]))
def test_damage_is_what_it_is_for_read(
    tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo, number: int, order: list[int], bf: int
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damage{bf}.mp4"
    if not path.exists():
        write_video(path, size=(96, 128), options=X264 | {"g": "20", "bf": str(bf), "crf": "15"})
    content = with_damage(path, number)
    try:
        clip = VideoReader(content, name="a.mp4").clip(range(3, 40, 4))
    except VideoError:
        return
    reader = VideoReader(content, name="a.mp4")
    for position in order:
        assert read_both(reader, clip, position)


def test_some_damage_is_met(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.mp4", size=(96, 128), options=X264 | {"g": "10", "bf": "0", "crf": "15"})
    reference, clip = decode_all(path), VideoReader(with_damage(path, 23), name="a.mp4").clip(range(40))
    for i in (29, 23):
        with pytest.raises(DamagedVideoError, match=r"a\.mp4: frame 23 is damaged"):
            clip.read([i])
    good = [35, 22, 3, *range(14, 20)]
    assert same(clip.read(good), reference, good)


def test_threads_read_clips_of_one_reader(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "a.mp4", frames=60, options=X264)
    reader, reference, right = VideoReader(path), decode_all(path), []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        clip = reader.clip(sorted(rng.sample(range(60), 12)))
        for position in rng.sample(range(12), 12):
            right.append(same(clip.read([position]), reference, [clip.indices[position]]))
            i = rng.randrange(60)
            right.append(same(reader.read([i]), reference, [i]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(right) == 6 * 24
    assert all(right)


@pytest.mark.skipif(not REAL_FILES, reason="DYNVID_REAL_DATA is not set: no real clips to test on")
@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_clips_of_real_files(path: Path) -> None:
    reader, once = VideoReader(path), VideoReader(path)
    if reader.height * reader.width > 1000 * 1000:
        pytest.skip("decoding it whole takes seconds")
    clip = reader.clip(segment_indices(len(reader), 16), short_side=64)
    order = random.Random(path.name).sample(range(16), 16)
    try:
        expected = once.read(clip.indices, short_side=64)
    except DamagedVideoError:
        assert all(read_both(once, clip, position) for position in order)
        return
    for position in order:
        assert torch.equal(clip.read([position])[0], expected[position])
    if isinstance(reader._access, RandomAccess):
        assert clip.packets_fed <= max(1.05 * num_packets(path), num_packets(path) + 2)
