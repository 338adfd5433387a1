"""What dynvid raises on purpose: one line that names the file, key or number at fault and, where there is one, the fix.

Each is also the built-in error that Python programmers expect there, so `except ValueError` goes on working.
"""


class DynvidError(Exception):
    """Base of every error that dynvid raises on purpose; any other exception that comes out of it is a bug."""


class InputError(DynvidError, ValueError):
    """A number, name, file or checkpoint that cannot be used as it is."""


class MissingFileError(DynvidError, FileNotFoundError):
    """A file or folder that is not there."""


class VideoError(DynvidError, RuntimeError):
    """A video that cannot be read: one line that names the file and the cause."""


class DamagedVideoError(VideoError):
    """A video that opens, but of which a wanted frame, or one on the way to it, does not decode as it should."""


class FrameIndexError(DynvidError, IndexError):
    """A frame that a video does not have."""


class ModeError(DynvidError, RuntimeError):
    """A call that does not fit the state of what it was made on, such as early exit in training mode."""
