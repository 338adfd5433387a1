"""`dynvid live`: label a camera, a stream or a file as its frames come."""

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dynvid import strict_json
from dynvid.commands.arguments import Arguments, add_audit, add_speed, refuse_audit
from dynvid.commands.numbers import number, seconds, tries
from dynvid.errors import InputError
from dynvid.text import printable, printable_label
from dynvid.whole import check_new_file

if TYPE_CHECKING:
    from dynvid.data.reading.live import LiveFrames
    from dynvid.inference import LiveAnswer, Recognizer


def run(arguments: list[str]) -> int:
    """Run the command; 0 if the source ended or was interrupted."""
    parser = Arguments("live", "Label frames as they come: an answer after each frame that the net takes.")
    parser.add_argument("model", help="A checkpoint of `dynvid fit` or `dynvid calibrate`, or what else dynvid loads.")
    parser.add_argument(
        "source", help="A camera (0, /dev/video0), an address (rtsp://, http://, udp://, ...) or a file."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object per answer.")
    parser.add_argument("--out", metavar="FILE.jsonl", help="Write them to a new file, too.")
    parser.add_argument("--window", type=seconds, default=4.0, help="Seconds of a window (default: 4).")
    parser.add_count(
        "--hop", None, "Frames of the net from one window's start to the next; by default they do not overlap."
    )
    parser.add_argument(
        "--continual", action="store_true", help="Never reset a net with a causal shift: a window for each frame."
    )
    parser.add_argument("--deadline-ms", "--deadline_ms", type=number, help="No step begins later after a frame came.")
    parser.add_argument("--max-gmacs", "--max_gmacs", type=number, help="The most that is spent on a window.")
    parser.add_argument("--realtime", action="store_true", help="Read a file as fast as a camera would give it.")
    parser.add_argument("--tries", type=tries, default=5, help="To find a lost source again, in a row (default: 5).")
    add_speed(parser)
    add_audit(parser)
    options = parser.parse_args(arguments)
    refuse_audit(parser, options, "deadline_ms", "max_gmacs", "continual")
    if options.out is not None:
        check_new_file(options.out)

    from dynvid.data.reading.live import live_frames
    from dynvid.inference import Recognizer

    how = (options.device, options.precision, options.optimize)
    recognizer = Recognizer.load(options.model, *how, audit=options.audit)
    if not recognizer.calibrated:
        print("dynvid: not calibrated: every window gets full inference", file=sys.stderr)
    elif options.continual and recognizer.point and recognizer.point.promised:
        print("dynvid: --continual: what was promised of clips is not promised of a net never reset", file=sys.stderr)
    live = recognizer.live(options.window, options.hop, options.deadline_ms, options.max_gmacs, options.continual)
    summary, began = _Summary(recognizer), time.monotonic()
    with ExitStack() as stack:
        show = stack.enter_context(_Shown(options.json))
        write = stack.enter_context(_Written(options.out))
        frames = stack.enter_context(
            live_frames(options.source, live.short_side, options.realtime, options.tries, show.say)
        )
        last = 0.0

        def give(answers: "list[LiveAnswer]") -> None:
            for answer in answers:
                summary.add(answer)
                row = _row(answer, frames)
                write.row(row)
                show.row(row)

        try:
            for frame in frames:
                last = frame.timestamp
                give(live.push(frame.image, last))
            give(live.finish())
        except KeyboardInterrupt:
            give(live.finish())
        finally:
            show.end()
            if summary.answers:  # else there is nothing but what went wrong
                said = summary.said(frames, last, time.monotonic() - began)
                print(f"dynvid: {printable(frames.name)}: {said}", file=sys.stderr)
            if summary.answers and recognizer.audit:
                print(f"dynvid: {recognizer.audit}", file=sys.stderr)
    return 0


class _Summary:
    """What happened in all."""

    def __init__(self, recognizer: "Recognizer") -> None:
        self._full = recognizer.full_gmacs
        self.answers = self.windows = self.sure = 0
        self.gmacs = 0.0

    def add(self, answer: "LiveAnswer") -> None:
        self.answers += 1
        if answer.is_last:
            self.windows, self.sure = self.windows + 1, self.sure + answer.is_final
            self.gmacs += answer.gmacs

    def said(self, frames: "LiveFrames", seconds: float, wall: float) -> str:
        """In one line."""
        parts = [f"{seconds:.1f} s of video in {wall:.1f} s, {self.answers} answers, {self.windows} windows"]
        if self.windows:
            share = 1 - self.gmacs / (self.windows * self._full)
            parts.append(f"{self.gmacs:.4g} GMACs ({100 * share:z.1f} % less than full inference of each)")
        counts = {"dropped": frames.dropped, "damaged": frames.damaged}
        parts += [f"{count} frames {what}" for what, count in counts.items() if count]
        parts += [f"{frames.reconnects} reconnects"] if frames.reconnects else []
        return ", ".join(parts)


def _row(answer: "LiveAnswer", frames: "LiveFrames") -> dict[str, Any]:
    return {
        "timestamp": answer.timestamp,
        "label": answer.label,
        "probability": answer.probability,
        "answered": answer.answered,
        "frames": answer.exit.frames,
        "depth": answer.exit.depth,
        "start": answer.start,
        "end": answer.end,
        "final": answer.is_final,
        "last": answer.is_last,
        "gmacs": answer.gmacs,
        "milliseconds": answer.milliseconds,
        "missing": answer.missing,
        "gap": answer.gap,
        "dropped": frames.dropped,
        "damaged": frames.damaged,
        "reconnects": frames.reconnects,
        "labels": list(answer.labels),
    }


class _Shown:
    """What stands on standard output: on a terminal one line that is written over, else a line for each answer."""

    def __init__(self, json: bool) -> None:
        self._json, self._over = json, not json and sys.stdout.isatty()
        self._width = 0

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def row(self, row: dict[str, Any]) -> None:
        """Show an answer."""
        if self._json:
            print(strict_json.dumps(row), flush=True)
            return
        mark = "=" if row["final"] else "~"
        label = printable_label(row["label"])
        label = label if row["answered"] else f"unsure (best guess {label})"
        line = f"{row['timestamp']:9.2f} s  {mark} {label}  {row['probability']:.3f}"
        line += f"  exit {row['frames']}x{row['depth']}  {row['gmacs']:.4g} GMACs"
        if self._over:
            print("\r" + line.ljust(self._width), end="", flush=True)
            self._width = len(line)
        else:
            print(line, flush=True)

    def say(self, line: str) -> None:
        """Say something that is no answer."""
        self.end()
        print(f"dynvid: {printable(line)}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line that is written over."""
        if self._width:
            print(flush=True)
        self._width = 0


class _Written:
    """A new file with a line for each answer, made at the first: a source that cannot be opened leaves none behind."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> "_Written":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def row(self, row: dict[str, Any]) -> None:
        """Write an answer."""
        if self._path is not None and self._file is None:
            self._file = _new(Path(self._path))
        if self._file:
            print(strict_json.dumps(row), file=self._file, flush=True)


def _new(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("x", encoding="ascii")
    except FileExistsError:
        raise InputError(f"{path}: is there already; name a new file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
