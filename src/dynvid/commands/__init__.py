"""The commands of the command line, one file each; `classify` is a plain function too."""

from dynvid.commands.classify import classify, classify_video

__all__ = ["classify", "classify_video"]
