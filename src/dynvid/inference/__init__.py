"""A trained net at work, without Lightning: label one video, many, a stream or a long one, in any runtime."""

from typing import TYPE_CHECKING

from dynvid.lazy import lazily

__all__ = [
    "LiveAnswer",
    "LiveRecognizer",
    "Passed",
    "Preparation",
    "Program",
    "Recipe",
    "Recognition",
    "Recognizer",
    "Row",
    "Segment",
    "Skipped",
    "Timeline",
    "export_program",
    "label_files",
    "parts_of",
    "prepare",
]

if TYPE_CHECKING:
    from dynvid.data.dataset import Skipped
    from dynvid.inference.bulk.label import label_files
    from dynvid.inference.bulk.results import parts_of
    from dynvid.inference.bulk.rows import Row
    from dynvid.inference.export import export_program
    from dynvid.inference.live import LiveAnswer, LiveRecognizer
    from dynvid.inference.preparation import Preparation
    from dynvid.inference.recipe import Recipe, prepare
    from dynvid.inference.recognizer import Passed, Recognition, Recognizer
    from dynvid.inference.runtimes import Program
    from dynvid.inference.timeline import Segment, Timeline
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "dynvid.data.dataset": ["Skipped"],
            "dynvid.inference.bulk.label": ["label_files"],
            "dynvid.inference.bulk.results": ["parts_of"],
            "dynvid.inference.bulk.rows": ["Row"],
            "dynvid.inference.export": ["export_program"],
            "dynvid.inference.live": ["LiveAnswer", "LiveRecognizer"],
            "dynvid.inference.preparation": ["Preparation"],
            "dynvid.inference.recipe": ["Recipe", "prepare"],
            "dynvid.inference.recognizer": ["Passed", "Recognition", "Recognizer"],
            "dynvid.inference.runtimes": ["Program"],
            "dynvid.inference.timeline": ["Segment", "Timeline"],
        },
    )
