"""Features of a frozen backbone: computed once for each video and view, and kept on disk for every run that needs them.

What is kept is what the exits average, as `ExitNet.embedded` gives it: all that is trained comes after it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import av
import timm
import torch
import torchvision

import dynvid
from dynvid import strict_json
from dynvid.checkpoint import fingerprint
from dynvid.data import VideoDataModule
from dynvid.data.dataset import Skipped
from dynvid.data.features import Features, digest_of_video
from dynvid.errors import InputError, MissingFileError, VideoError
from dynvid.nets import ExitNet
from dynvid.text import printable

_FORMAT = 1
_OF_HEADS = {"num_classes", "dropout", "heads", "route", "input_size"}  # what the features do not depend on
_SECONDS_A_LINE = 30.0


def key_of(net: ExitNet, data: VideoDataModule) -> str:
    """A name for all that features depend on but the videos.

    That is the weights and the description of the backbone, the frames that exits see and their order, how frames are
    sampled and sized, and the versions of what decodes, resizes and computes. The heads do not count.
    """
    described = net.spec()
    depends_on = {
        "format": _FORMAT,
        "versions": [package.__version__ for package in (dynvid, torch, torchvision, timm, av)],
        "weights": fingerprint({f"net.{k}": x for k, x in net.state_dict().items() if not k.startswith("heads.")}),
        "class": described["class_path"],
        "arguments": {k: value for k, value in described["init_args"].items() if k not in _OF_HEADS},
        "frames": {str(e.depth): e.frames for e in net.route},  # the last exit of a depth sees most of them
        "order": net.order,
        "shown": [data.num_frames, data.size, data.sampling],
    }
    return sha256(strict_json.dumps(depends_on).encode()).hexdigest()[:16]


@torch.no_grad()
def compute_features(
    net: ExitNet,
    data: VideoDataModule,
    folder: str | Path,
    say: Callable[[str], None] = print,
    part: slice = slice(None),
) -> None:
    """Compute the features that training and validation need, where they are not there or not whole.

    Args:
        net: The net, in eval mode.
        data: The videos; `data.features` tells their loaders from now on where the features are.
        folder: Holds a folder of features for each net.
        say: Is given lines on how it goes.
        part: Which of the videos to see to; other processes see to the others.

    Raises:
        VideoError: A video cannot be read, and the data module has `on_error="raise"`; or it changes meanwhile.
        InputError: A file cannot be written.
    """
    features = data.features = data.features or Features()
    features.folder = Path(folder, key_of(net, data))
    views, started, told = data.views(), time.monotonic(), time.monotonic()
    known = {path: digest for path, digest in data.digests().items() if path in views}
    features.digests |= known
    for path, digest in _digests([path for path in views if path not in known], say):
        if isinstance(digest, VideoError):
            _leave_out(path, str(digest), data, features)
        else:
            features.digests[path] = digest
    lacking = {path: _lacking(path, views[path], features, say) for path in features.digests}
    mine, done = [path for path in list(views)[part] if lacking.get(path)], 0
    for items in data.frames(mine) if mine else ():
        done += len(items)
        shown = {}
        for item in items:
            if isinstance(item, Skipped):
                _leave_out(item.path, item.reason, data, features)
            elif item["path"] not in known and digest_of_video(item["path"]) != features.digests[item["path"]]:
                raise VideoError(f"{item['path']}: has changed while it was read; begin again")
            else:
                shown[item["path"]] = item["video"]
        for mirrored in (False, True):
            paths = [path for path in shown if mirrored in lacking[path]]
            if paths:
                video = torch.stack([shown[path] for path in paths])  # (B, T, C, H, W)
                embedded = net.embedded(video.flip(-1) if mirrored else video)
                for row, path in enumerate(paths):
                    features.write(path, mirrored, {depth: x[:, row] for depth, x in embedded.items()})
        if (now := time.monotonic()) - told > _SECONDS_A_LINE and done < len(mine):
            left = _duration((now - started) / done * (len(mine) - done))
            told = now
            say(f"features: {done} of {len(mine)} videos, about {left} left")
    _say_what_is_there(views, features, done, time.monotonic() - started, say)


def _digests(paths: Sequence[str], say: Callable[[str], None]) -> Iterator[tuple[str, str | VideoError]]:
    """What is in videos, by `digest_of_video`, or why it cannot be read."""
    started = told = time.monotonic()
    with ThreadPoolExecutor(8) as pool:  # in object storage, a video is a request
        for done, (path, digest) in enumerate(zip(paths, pool.map(_digest, paths), strict=True), 1):
            yield path, digest
            if (now := time.monotonic()) - told > _SECONDS_A_LINE and done < len(paths):
                left = _duration((now - started) / done * (len(paths) - done))
                told = now
                say(f"features: {done} of {len(paths)} videos looked up by their content, about {left} left")


def _digest(path: str) -> str | VideoError:
    try:
        return digest_of_video(path)
    except VideoError as error:
        return error


def _lacking(path: str, views: set[bool], features: Features, say: Callable[[str], None]) -> list[bool]:
    """The views of a video whose features are not there; what is damaged is said."""
    lacking = []
    for mirrored in sorted(views):
        try:
            features.read(path, mirrored)
        except MissingFileError:
            lacking.append(mirrored)
        except InputError as error:
            say(f"features: {error}; it is computed again")
            lacking.append(mirrored)
    return lacking


def _leave_out(path: str, reason: str, data: VideoDataModule, features: Features) -> None:
    """Note a video that cannot be read, or stop at it, as the data module says."""
    if data.on_error == "raise":
        raise VideoError(reason)
    features.unreadable[path] = reason


def _say_what_is_there(
    views: dict[str, set[bool]], features: Features, computed: int, seconds: float, say: Callable[[str], None]
) -> None:
    there = [path for path in views if path not in features.unreadable]
    files = {features.file(path, mirrored) for path in there for mirrored in views[path]}
    size = sum(file.stat().st_size for file in files if file.exists()) / 1e6
    how = " were there" if not computed else f" in {_duration(seconds)}"
    if 0 < computed < len(views):
        how = f", {computed} of them new," + how
    say(f"features of {len(there)} videos{how} ({size:.3g} MB in {printable(features.folder)})")


def _duration(seconds: float) -> str:
    """A time in words.

    >>> _duration(72.4), _duration(4)
    ('1 min 12 s', '4 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
