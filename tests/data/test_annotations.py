"""Annotation files from strangers: each gives data or one line that names the file, whatever is in it."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynvid.data import (
    HMDB51DataModule,
    KineticsDataModule,
    SomethingSomethingV1DataModule,
    SomethingSomethingV2DataModule,
    SyntheticDataModule,
    UCF101DataModule,
    Video,
    VideoDataModule,
    VideoFolderDataModule,
    VideoListDataModule,
    check_videos,
)
from dynvid.data.files import read_excluded
from dynvid.errors import DynvidError

KINETICS = "label,youtube_id,time_start,time_end,split\nmassaging person's head,-a_0,1,11,train\nyoga,b,20,30,train\n"
CHECKED = (
    "path,status,reason,frames,fps,key_frame_spacing\n"
    '/x/a.mp4,ok,,80,25.0,12.0\n"/x/b, c.mp4",unreadable,"cannot open, at all",0,0.0,0.0\n/x/d.mp4,damaged,,0,0.0,0.0\n'
)
RECIPE = {"clips_per_class": 1, "clip_frames": 2, "seed": 0, "size": 32, "version": 1}
V2 = [{"id": str(i), "label": "x", "template": "Holding [something]", "placeholders": ["x"]} for i in range(4)]


def listed(data: VideoDataModule) -> list[Any]:
    return [data.class_names, *(data.listed(split) for split in ("train", "val", "test"))]


def recipe(folder: Path) -> object:
    return SyntheticDataModule(folder, clips_per_class=1, clip_frames=2, size=32).prepare_data()


def ssv2(folder: Path) -> list[Any]:
    return listed(SomethingSomethingV2DataModule(folder, folder))


# Per parser: its files, the one of them that is damaged, and how it is read.
Parser = tuple[dict[str, str], Callable[[Path], Any]]
LISTS = {"train.txt": "a/b c.mp4 0\nframes/1 30 1\n", "test.txt": "d.mp4 1\n", "classes.txt": "air drumming\nyoga\n"}
UCF = {
    "classInd.txt": "1 YoYo\r\n2 Lunges\r\n",
    "trainlist01.txt": "YoYo/v_YoYo_g08_c01.avi 1\r\nLunges/v_Lunges_g08_c01.avi 2\r\n",
    "testlist01.txt": "YoYo/v_YoYo_g01_c01.avi\r\n",
}
SSV1 = {
    "something-something-v1-labels.csv": "Holding something\nTurning something upside down\n",
    "something-something-v1-train.csv": "100218;Holding something\n24;Turning something upside down\n",
    "something-something-v1-validation.csv": "7;Holding something\n",
}
SSV2 = {
    "labels.json": json.dumps({"Holding something": "0", "Turning something": "1"}),
    "train.json": json.dumps(V2),
    "validation.json": json.dumps(V2),
    "test-answers.csv": "3;Holding something\n",
}
PARSERS: dict[str, Parser] = {
    "kinetics": (
        {"train.csv": KINETICS, "validate.csv": KINETICS},
        lambda folder: listed(KineticsDataModule(folder, folder)),
    ),
    "ucf101": (UCF, lambda folder: listed(UCF101DataModule(folder, folder))),
    "hmdb51": (
        {"climb_test_split1.txt": "(HQ)_A_climb_f_cm_np1_le_med_2.avi 1 \nB_climb_f_cm_np1_le_med_0.avi 2 \n"},
        lambda folder: listed(HMDB51DataModule(folder, folder)),
    ),
    "ssv1": (SSV1, lambda folder: listed(SomethingSomethingV1DataModule(folder, folder))),
    "ssv2": (SSV2, ssv2),
    "ssv2 answers": (SSV2, lambda f: SomethingSomethingV2DataModule(f, f, test_list="test").listed("test")),
    "lists": (LISTS, lambda f: listed(VideoListDataModule(f, "train.txt", "test.txt", "classes.txt"))),
    "csv": (
        {"a.csv": 'path,label,split,group\n"a, b.mp4",wave,train,g1\nc.mp4,wave,Validation,\nd.mp4,wave,unused,\n'},
        lambda folder: listed(VideoFolderDataModule(folder, "a.csv")),
    ),
    "exclude": (
        {"bad.csv": 'path,reason\n./1.mp4,"broken, really"\n/x/2.mp4,gone\n'},
        lambda f: read_excluded(f / "bad.csv"),
    ),
    "checked": ({"checked.csv": CHECKED}, lambda folder: check_videos(["/x/a.mp4"], folder, 0)),
    "recipe": ({"recipe.json": json.dumps(RECIPE)}, recipe),
}


def write(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in PARSERS[name][0].items():
        (folder / file).write_bytes(text.encode())
    return folder


def one_line(error: DynvidError, folder: Path) -> None:
    text = str(error)
    assert text.isprintable(), text
    assert str(folder) in text
    assert len(text) < 10_000


@pytest.mark.parametrize("name", PARSERS)
def test_the_files_are_right_as_they_are(name: str, tmp_path: Path) -> None:
    """Else every mutation would be refused, and the tests below would say nothing."""
    found = PARSERS[name][1](write(tmp_path / "x", name))
    assert found or name == "recipe"  # which gives nothing
    if isinstance(found, list) and isinstance(found[0], list):  # classes, then the videos of each split
        assert found[0]
        assert any(found[1:])


DEEP = b"[" * 100_000
NASTY = [
    *(b"\0", b"\n", b"\r", b'"', b",", b";", b" ", b"\xff\xfe", b"\xe9", b"\xef\xbb\xbf", b"-1", b"nan", b"1e999"),
    *(b"7" * 5000, b"x" * 200_000, b"\x1b[2J", "\u202e".encode(), b"\\ud800", b"\\u0000", b"..", b"/", b"true"),
    *(b"[", b"{", b"null", b'{"id": 3}', DEEP),
]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A few cuts, flips, moves and insertions."""
    for _ in range(rng.randint(1, 3)):
        at, to = sorted(rng.randint(0, len(content)) for _ in range(2))
        match rng.randrange(6):
            case 0:
                content = content[:at]
            case 1:
                content = content[:at] + content[to:]
            case 2:
                content = content[:at] + rng.choice(NASTY) + content[at:]
            case 3:
                content = content[:at] + rng.choice(NASTY) + content[to:]
            case 4:
                content = content[:to] + content[at:to] + content[to:]
            case _:
                if content:
                    flipped = bytearray(content)
                    flipped[at % len(content)] ^= 1 << rng.randrange(8)
                    content = bytes(flipped)
    return content


@pytest.mark.parametrize("name", PARSERS)
def test_damaged_files_give_data_or_one_line(name: str, tmp_path: Path) -> None:
    rng, refused = random.Random(name), 0
    for number in range(150):
        folder = write(tmp_path / f"{number}", name)
        file = folder / rng.choice(sorted(PARSERS[name][0]))
        file.write_bytes(damaged(file.read_bytes(), rng))
        try:
            PARSERS[name][1](folder)
        except DynvidError as error:
            one_line(error, folder)
            refused += 1
    assert 15 < refused < 150


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\n".join(map(bytes, [range(256)] * 3)), DEEP])
def test_other_files_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    for file in PARSERS[name][0]:
        folder = write(tmp_path / file, name)
        (folder / file).write_bytes(content)
        try:
            PARSERS[name][1](folder)
        except DynvidError as error:
            one_line(error, folder)
        else:  # not asked for, or a list of names, of which a bracket may be one
            assert content is DEEP or "ssv2" in name
        assert (folder / file).read_bytes() == content, "nobody's file is changed"


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("kinetics", "train.csv", KINETICS + "x" * 200_000, r"train\.csv, line 4: no CSV \(field larger than"),
        ("kinetics", "train.csv", KINETICS + "yoga,c\n", r"train\.csv, line 4: a time is no number"),
        ("kinetics", "train.csv", KINETICS + ",c,1,2,train\n", r"train\.csv, line 4: label or youtube_id is empty"),
        ("kinetics", "train.csv", KINETICS + '"yoga,c,1,2,train\nyoga,d,1,2\n', r"train\.csv, line 5: no CSV \(unexp"),
        ("kinetics", "train.csv", KINETICS + "petting animal, cat,c,1,2,train\n", r"line 4: 6 cells under 5 names"),
        ("kinetics", "train.csv", KINETICS.replace("youtube_id", "id"), r"train\.csv, line 1: no column youtube_id"),
        ("kinetics", "train.csv", "Label" + KINETICS, r"train\.csv, line 1: no column label; found labellabel"),
        ("csv", "a.csv", "path,Label,label,split\n", r"a\.csv, line 1: column label is there twice"),
        ("csv", "a.csv", "path,label,split\na.mp4\0,x,train\n", r"a\.csv, line 2: a NUL byte"),
        ("csv", "a.csv", "path,label,split\na.mp4,x\n", r"a\.csv, line 2: split is empty"),
        ("ucf101", "classInd.txt", "1 YoYo\n2 YoYo\n", r"classInd\.txt, line 2: class 'YoYo' is in line 1 already"),
        ("ucf101", "classInd.txt", "\n", r"classInd\.txt: names no class"),
        ("ucf101", "classInd.txt", "a b\n", r"classInd\.txt, line 1: not a number and a name"),
        ("lists", "train.txt", f"a.mp4 0\nb.mp4 {'1' * 5000}\n", r"train\.txt, line 2: no label from 0 to 1"),
        ("ssv2", "labels.json", '["Holding something"]', r"labels\.json: not an object of names and numbers"),
        ("ssv2", "labels.json", '{"Holding something": "one"}', r"labels\.json: class 'Holding something' has no"),
        ("ssv2", "labels.json", '{"Holding something": 0, "b": "0"}', r"labels\.json: class 'b' has no number of"),
        ("ssv2", "labels.json", '{"a": %s}' % ("1" * 5000), r"labels\.json: JSON that cannot be read \(Exceeds"),
        ("ssv2", "labels.json", "[" * 100_000, r"labels\.json: JSON that cannot be read \(maximum recursion"),
        ("ssv2", "train.json", '{"id": "1"}', r"train\.json: not a list of videos"),
        ("ssv2", "train.json", '[{"id": "1"}]', r"train\.json, video 1 of the list: no `id` and `template`"),
        ("ssv2", "train.json", json.dumps([V2[0], {"id": 7, "template": "x"}]), r"train\.json, video 2 of the list"),
        ("ssv2", "train.json", "[[]]", r"train\.json, video 1 of the list"),
        ("exclude", "bad.csv", "path,reason\na,b,c\n", r"bad\.csv, line 2: 3 cells under 2 names of columns"),
        ("recipe", "recipe.json", '{"size": 32,\n', r"recipe\.json, line 2: not JSON .*; remove it or choose"),
        ("recipe", "recipe.json", "[]", r"holds other files than clips made with .*; remove it or choose another root"),
    ],
)  # fmt: skip
def test_what_is_said(name: str, file: str, content: str, message: str, tmp_path: Path) -> None:
    (write(tmp_path / "x", name) / file).write_text(content)
    with pytest.raises(DynvidError, match=message) as caught:
        PARSERS[name][1](tmp_path / "x")
    one_line(caught.value, tmp_path)


@pytest.mark.parametrize("name", ["kinetics", "csv", "lists"])
def test_a_folder_or_a_pipe_is_no_list(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / "x", name) / {"kinetics": "train.csv", "csv": "a.csv", "lists": "train.txt"}[name]
    for make in (os.mkfifo, os.mkdir):
        file.rename(tmp_path / "away") if file.is_file() else file.unlink()
        make(file)
        with pytest.raises(DynvidError, match=rf"{file.name}: is no file"):
            PARSERS[name][1](tmp_path / "x")


def test_a_name_that_steers_the_terminal_is_escaped(tmp_path: Path) -> None:
    file = tmp_path / "a\n\x1b[31m" / "a.csv"
    file.parent.mkdir()
    for content in ("path,label,split\n\u202eb.mp4\x07,,train\n", "path,label,split\nb\x1b[2J.mp4,x,train\n", ""):
        file.write_text(content)
        with pytest.raises(DynvidError, match=r"a\\x0a\\x1b\[31m") as caught:
            VideoFolderDataModule(file.parent, "a.csv").videos("train")
        one_line(caught.value, Path("a.csv"))


def test_older_line_ends_and_spellings(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b" Path ,LABEL,Split\ra.mp4,x,Train\rb.mp4,x,TESTING\r")
    data = VideoFolderDataModule(tmp_path, "a.csv")
    assert data.listed("train") == [Video(str(tmp_path / "a.mp4"), 0)]
    assert data.listed("test") == [Video(str(tmp_path / "b.mp4"), 0)]
