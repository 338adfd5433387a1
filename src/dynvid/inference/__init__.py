"""A trained net at work, without Lightning: label one video, or many."""

from typing import TYPE_CHECKING

from dynvid.lazy import lazily

__all__ = ["Passed", "Preparation", "Recipe", "Recognition", "Recognizer", "Skipped", "prepare"]

if TYPE_CHECKING:
    from dynvid.data.dataset import Skipped
    from dynvid.inference.preparation import Preparation
    from dynvid.inference.recipe import Recipe, prepare
    from dynvid.inference.recognizer import Passed, Recognition, Recognizer
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "dynvid.data.dataset": ["Skipped"],
            "dynvid.inference.preparation": ["Preparation"],
            "dynvid.inference.recipe": ["Recipe", "prepare"],
            "dynvid.inference.recognizer": ["Passed", "Recognition", "Recognizer"],
        },
    )
