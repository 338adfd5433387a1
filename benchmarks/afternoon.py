"""A stranger's afternoon: from videos in two folders to a calibrated model that labels a live stream, each step timed.

    python benchmarks/afternoon.py FOLDER --weights MOBILENETV2

FOLDER holds clips of UCF-101. Of two classes, recordings 1 to 10 are put into a folder for each class, as somebody has
them who has labelled some; 11 to 25 into one folder, without labels. Everything else is done by the commands that the
documentation names, and by nothing else. What is streamed are clips without labels, over UDP, at their own pace.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from runs import RESULTS, write

CLASSES = {"JumpingJack": "jumping_jack", "Lunges": "lunges"}
GROUP = r"v_\w+_g\d+"
ADDRESS = "udp://127.0.0.1:23456"


def main() -> None:
    """Run the steps and write what they took and said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="UCF-101 at any depth")
    parser.add_argument("--weights", required=True, help="MobileNetV2 of ImageNet, batch norm folded")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        streamed = lay_out(options.clips, here)
        data = ["--config", "folder.yaml", "--data.root", "videos", "--data.group", GROUP]
        net = ["--model.net.pretrained", str(Path(options.weights).resolve())]
        net += ["--model.net.backbone_args", '{"pad_type": "same"}']  # as these weights were trained
        best, name = "logs/folder/folds/version_0/final/checkpoints/best.ckpt", "ready.ckpt"
        frozen = ["--model.freeze_backbone", "true", "--folds", "5", "--calibration.max_drop", "0.2"]
        steps = [
            step(here, "look at the videos", ["check", *data]),
            step(here, "train, by folds", ["fit", *data, *net, *frozen]),
            step(
                here,
                "promise, on videos without labels",
                [
                    "calibrate",
                    best,
                    "--videos",
                    "more",
                    "--group",
                    GROUP,
                    "--max-disagreement",
                    "0.1",
                    "--output",
                    name,
                ],
            ),
            step(here, "label files", ["classify", name, *streamed[:4]]),
        ]
        sender = threading.Thread(target=send, args=([here / clip for clip in streamed],), daemon=True)
        sender.start()
        live = ["live", name, ADDRESS, "--window", "3", "--tries", "0"]  # its end counts as lost
        steps.append(step(here, f"label a live stream of {len(streamed)} clips", live, status=1))
    if not steps[-1]["said"]:
        sys.exit("the stream was not heard")
    write(RESULTS / "afternoon.json", json.dumps(steps, indent=1) + "\n")
    print(f"{sum(s['seconds'] for s in steps) / 60:.1f} minutes in all")


def lay_out(clips: Path, here: Path) -> list[str]:
    """Copy the clips as somebody has them; gives those that are streamed, two of each class in turns."""
    unlabelled: dict[str, list[str]] = {name: [] for name in CLASSES}
    (here / "more").mkdir()
    for name, folder in CLASSES.items():
        (here / "videos" / folder).mkdir(parents=True)
        for clip in sorted(clips.rglob(f"v_{name}_g*")):
            group = int(re.findall(r"_g(\d+)_", clip.name)[0])
            place = Path("videos", folder) if group <= 10 else Path("more")
            shutil.copyfile(clip, here / place / clip.name)
            if group > 10:
                unlabelled[name].append(str(place / clip.name))
    return [clip for row in zip(*(found[::20] for found in unlabelled.values()), strict=False) for clip in row]


def step(here: Path, what: str, arguments: Sequence[str], status: int = 0) -> dict[str, object]:
    """Run one command; say and return how long it took and the last lines that it printed."""
    began = time.perf_counter()
    command = [str(Path(sys.executable).with_name("dynvid")), *arguments]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    seconds = round(time.perf_counter() - began, 1)
    said = [line.replace(f"{here}/", "") for line in done.stdout.splitlines() if line.strip()]
    print(f"\n{what}: {seconds} s\ndynvid {' '.join(arguments)}", *said[-24:], done.stderr[-400:], sep="\n", flush=True)
    if done.returncode != status:
        sys.exit(f"{what}: exit status {done.returncode}")
    return {"step": what, "seconds": seconds, "said": [line.rstrip() for line in said[-12:]]}


def send(clips: Sequence[Path]) -> None:
    """Stream clips one after the other, at their own pace."""
    time.sleep(5)  # what comes before somebody listens is lost; after ten seconds of nothing nobody listens any more
    with av.open(ADDRESS, "w", format="mpegts") as output:
        stream = output.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 2_000_000
        began, count = time.monotonic(), 0
        for clip in clips:
            with av.open(str(clip)) as source:
                for frame in source.decode(video=0):
                    picture = frame.reformat(320, 240, "yuv420p")
                    picture.pts, picture.time_base = count, Fraction(1, 25)
                    output.mux(stream.encode(picture))
                    count += 1
                    time.sleep(max(began + count / 25 - time.monotonic(), 0))
        output.mux(stream.encode())


if __name__ == "__main__":
    main()
