"""A process of `dynvid.inference.bulk` that loads no net: it does to itself what the names of videos say.

Everything but the recognizer is the real one.
"""

import errno
import os
import signal
import sys
import time
import types
from collections import deque

Skipped = type("Skipped", (), {"__init__": lambda self, path, reason: vars(self).update(path=path, reason=reason)})


class Audit:
    """Counts videos."""

    def __init__(self):
        self.audited = 0

    def resume(self, plain):
        self.audited = plain["audited"]

    def plain(self):
        return {"audited": self.audited}

    def __str__(self):
        return f"{self.audited} audited"


class Recognizer:
    """Reads up to eight videos ahead of the result that it gives, as a pool does."""

    full_gmacs = 4.0

    @classmethod
    def load(cls, model, device, precision, optimize, runtime, audit):
        if "unreadable" in model:
            raise sys.modules["dynvid.errors"].InputError(f"{model}: no model")
        if "endless" in model:
            time.sleep(3600)
        if "broken" in model:
            os._exit(3)
        made = cls()
        made.audit = Audit() if audit else None
        made.recipe = types.SimpleNamespace(precision="float32" if precision == "auto" else precision)
        return made

    def notes(self):
        return ["not calibrated: every video gets full inference"]

    def __call__(self, path):
        path = getattr(path, "name", path)
        name = os.path.basename(path)
        if "kill" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "stop" in name:
            os.kill(os.getpid(), signal.SIGSTOP)
        if "hang" in name:
            time.sleep(3600)
        if "memory" in name:
            raise sys.modules["torch"].OutOfMemoryError("no memory left on the GPU")
        if "allocate" in name:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        if "MemoryError" in name:
            raise MemoryError("Unable to allocate 9 GiB")
        if "share" in name and os.path.exists(os.path.join(os.path.dirname(path), "down")):
            raise OSError(errno.ESTALE, "Stale file handle")
        if "bad" in name:
            raise ValueError("no video")
        time.sleep(0.002 * ("slow" in name))
        if self.audit:
            self.audit.audited += 1
        exit_taken = types.SimpleNamespace(frames=2, depth=len(path) % 3 + 1)
        return types.SimpleNamespace(
            label=path[::-1] + " in bfloat16" * (self.recipe.precision == "bfloat16"),
            probability=0.5,
            exit=exit_taken,
            gmacs=1.0,
            milliseconds=2.0,
            path=path,
            answered="unsure" not in name,
        )

    def many(self, videos, batch_size, workers):
        ahead = deque()
        for path in videos:
            try:
                found = self(path)
            except (ValueError, OSError, MemoryError) as error:
                found = Skipped(path, reason(path, error))
            if "together" in path:
                raise RuntimeError("does not go with others")
            ahead.append(found)
            if len(ahead) > 8:
                yield ahead.popleft()
        yield from ahead


def reason(path, error):
    return f"{path}: {error}"


def stub(name, **content):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)


if __name__ == "child":  # as the test starts it
    stub("torch", OutOfMemoryError=type("OutOfMemoryError", (RuntimeError,), {}))
    stub("dynvid.data.dataset", Skipped=Skipped)
    stub("dynvid.inference.recognizer", Recognizer=Recognizer, reason=reason)

    from dynvid.inference.bulk import child

    child.main(int(sys.argv[2]))
