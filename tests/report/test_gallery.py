"""Frames of real files, in the order in which the net asks for them."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dynvid.data.synthetic import write_clip
from dynvid.errors import InputError
from dynvid.policy import ThresholdPolicy
from dynvid.report import render_report
from dynvid.report.gallery import make_gallery
from dynvid.routes import Exit, frame_groups

ORDER = [frame for group in frame_groups(8, "thue_morse") for frame in group]


def grey(frame):
    """Of frame n of a clip; each of them can be told from every other."""
    return 20 + 13 * frame


def clip(path, size=(64, 112)):
    frames = np.stack([np.full((*size, 3), grey(n), np.uint8) for n in range(16)])
    write_clip(path, frames)


def seen(uri):
    """Mean grey and size of a picture."""
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    return float(np.asarray(image.convert("L")).mean()), image.size


@pytest.fixture
def outputs(make_outputs, tmp_path):
    """Nine videos, three of which leave at each of three exits."""
    found = make_outputs(videos=9, classes=2, exits=3)
    paths = [str(tmp_path / f"clip_{n}.mp4") for n in range(9)]
    for path in paths:
        clip(path)
    logits = torch.zeros(3, 9, 2)
    logits[0, :3, 1] = torch.tensor([3.0, 4.0, 5.0])
    logits[1, :6, 1] = 4.0
    logits[2, :, 1] = 1.0
    return replace(
        found,
        logits=logits,
        labels=torch.ones(9, dtype=torch.long),
        paths=paths,
        recordings=paths,
        route=(Exit(2, 1), Exit(4, 1), Exit(8, 2)),
        policy=ThresholdPolicy(thresholds=[0.9, 0.8, 0.0]),
        run={"frame_order": ORDER},
    )


def test_frames_come_in_processing_order(outputs):
    gallery = make_gallery(outputs)
    assert [(group["exit"], len(group["videos"])) for group in gallery["exits"]] == [(1, 2), (2, 2), (3, 2)]
    for group, asked in zip(gallery["exits"], ([2], [2, 2], [2, 2, 4]), strict=True):
        for video in group["videos"]:
            assert [len(step["pictures"]) for step in video["steps"]] == asked
            assert video["unread"] == 8 - sum(asked)
            shown = [seen(uri)[0] for step in video["steps"] for uri in step["pictures"]]
            # the centre frame of each of eight segments of two frames is the second of them
            assert shown == pytest.approx([grey(2 * frame + 1) for frame in ORDER[: sum(asked)]], abs=4)


def test_pictures_are_small(outputs):
    assert seen(make_gallery(outputs)["exits"][0]["videos"][0]["steps"][0]["pictures"][0])[1] == (96, 55)


def test_scores_stand_against_thresholds(outputs):
    steps = make_gallery(outputs)["exits"][1]["videos"][0]["steps"]
    assert [step["leaves"] for step in steps] == [False, True]
    sure = torch.tensor([[0.0, 0.0], [0.0, 4.0]]).softmax(-1).amax(-1).tolist()
    assert [step["score"] for step in steps] == pytest.approx(sure)
    assert [step["threshold"] for step in steps] == pytest.approx([0.9, 0.8])
    assert make_gallery(outputs)["exits"][2]["videos"][0]["steps"][-1]["threshold"] is None
    page = render_report(outputs).files["report.html"].decode()
    assert page.count("<img") == 2 * (2 + 4 + 8)
    assert "0.500 &lt; 0.900" in page or "0.500 < 0.900" in page
    assert "0.982 ≥ 0.800" in page
    assert "6 frames never read" in page


def test_videos_are_those_of_the_median_score(outputs):
    first = make_gallery(outputs)["exits"][0]["videos"]
    assert first[0]["path"].endswith("clip_1.mp4")


def test_without_an_order_it_is_chronological(outputs):
    gallery = make_gallery(replace(outputs, run={}))
    last = gallery["exits"][2]["videos"][0]["steps"]
    shown = [seen(uri)[0] for step in last for uri in step["pictures"]]
    assert shown == pytest.approx([grey(2 * frame + 1) for frame in range(8)], abs=4)


def test_videos_that_are_gone_are_said_in_one_line(outputs, tmp_path):
    for path in tmp_path.glob("*.mp4"):
        path.unlink()
    gallery = make_gallery(outputs)
    assert (gallery["exits"], gallery["missing"]) == ([], 9)
    page = render_report(outputs).files["report.html"].decode()
    (line,) = [line for line in page.splitlines() if "No pictures" in line]
    assert "no longer where they were, such as" in line
    assert "<img" not in page


def test_one_that_is_gone_gives_way_to_another(outputs, tmp_path):
    (tmp_path / "clip_1.mp4").unlink()
    gallery = make_gallery(outputs)
    assert len(gallery["exits"][0]["videos"]) == 2
    assert gallery["missing"] == 1


@pytest.mark.parametrize("path", ["nul\0.mp4", "", "/", "x" * 5000, "caf\udce9.mp4"])
def test_no_path_is_a_crash(outputs, path):
    assert make_gallery(replace(outputs, paths=[path] * 9))["exits"] == []


@pytest.mark.parametrize("order", [[0, 1], [0] * 8, "01234567", [*range(1, 9)], [None] * 8, [0.5, *range(1, 8)]])
def test_an_order_that_is_none_says_so(outputs, order):
    with pytest.raises(InputError, match=r"frame_order: not each of the frames 0 to 7 once"):
        make_gallery(replace(outputs, run={"frame_order": order}))


def test_pictures_have_an_end(outputs, monkeypatch):
    monkeypatch.setattr("dynvid.report.gallery.BYTES", 3000)
    page = render_report(outputs).files["report.html"].decode()
    assert 0 < sum(map(len, re.findall(r"data:image[^\"]+", page))) <= 3000
    assert "Left out, so that the page stays small: 3." in page


def test_names_of_strangers_are_text_here_too(outputs, tmp_path):
    (tmp_path / "<b onclick=x>").mkdir()
    paths = [str(tmp_path / "<b onclick=x>" / f"{n}.mp4") for n in range(9)]
    for path in paths:
        clip(path)
    named = replace(outputs, paths=paths, class_names=["<i>", "<script>alert(1)</script>"])
    page = render_report(named).files["report.html"].decode()
    assert "<strong>&lt;script&gt;alert(1)&lt;/script&gt;</strong>" in page
    assert "/&lt;b onclick=x&gt;/1.mp4" in page
    wrong = replace(named, labels=torch.zeros(9, dtype=torch.long))
    page += render_report(wrong).files["report.html"].decode()
    assert ", wrong: <strong>&lt;i&gt;</strong>" in page
    assert not re.search("<script|<b |<i>", page)
