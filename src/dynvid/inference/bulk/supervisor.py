"""Has videos read by a process that may die of one, and finds out which one it was.

When the process dies, or says nothing for too long, the videos that it had begun are tried one by one, each as the only
one in its hands: so the culprit alone is blamed. A video that ends its process twice so is set aside, with a row that
says it. Such rows, and those of videos that could not be read for a reason that the machine may have given, are held
back until another video is read; where none is, the run stops and they are done again.
"""

import math
import os
import signal
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import dynvid
from dynvid.errors import InputError, ModeError
from dynvid.inference.bulk.child import STOPS, Message, Settings
from dynvid.inference.bulk.journal import Journal
from dynvid.inference.bulk.keys import key_of
from dynvid.inference.bulk.rows import Row

TRIES = 2
"""How often a video may end the process that reads it alone."""

_Found = tuple[Row, bool]  # and whether the machine may be to blame for it
_MOST_IN_A_ROW = 20  # doubtful rows without another in between: then it is the machine
_MOST_STARTS = 3  # of a process that comes to nothing
_LOADING = 600.0  # seconds that a process may load a model without a word, if the limit is not longer
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); from dynvid.inference.bulk.child import main; main(int(sys.argv[2]))"
)


_KILLED = "ended the process that read them ({}), and none was read in between: has the machine enough memory?"
_UNREADABLE = "could not be read, which is no fault of theirs ({}); once that is mended, the same call goes on"


class Ended(NamedTuple):
    """How a process ended that should not have.

    Attributes:
        said: In words, such as SIGKILL.
        hung: Whether it was ended here, since it said nothing for too long.
    """

    said: str
    hung: bool = False


class Supervisor:
    """Labels videos by a process of its own, which is started anew when it dies.

    Args:
        settings: What the process loads.
        time_limit: Seconds without any word of it after which it counts as hung.
        journal: What keeps in mind which videos are begun.
        say: Called with a line when something happens that a user should know.

    Attributes:
        audit: What the audit says so far, as plain data; None without one.
        precision: That of the settings, and what `auto` has come to once a process is ready.
    """

    def __init__(
        self,
        settings: Settings,
        time_limit: float = 600.0,
        journal: Journal | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._settings, self._time_limit, self._say = settings, time_limit, say
        self._journal = journal or Journal()
        self._child: _Child | None = None
        self._words: list[str] = []
        self._alone: int | None = None  # the key of the video that is being tried alone
        self._aside: list[Row] = []  # held back until a row comes that shows that the machine is not to blame
        self._number = self._fruitless = self._in_a_row = 0
        self.audit: dict[str, Any] | None = settings.audited
        self.precision = settings.precision

    def run(self, videos: Iterable[str]) -> Iterator[Row]:
        """Label videos, in no particular order; what cannot be read is a row too.

        Videos that were begun by a process that did not come back, as the journal has it, are tried alone, at the end.

        Raises:
            ValueError: The model cannot be loaded.
            ModeError: The process cannot run: it ends before it is ready, or with one video after the other.
        """
        suspected = self._journal.begun | set(self._journal.tries)
        suspects: deque[str] = deque()

        def in_company() -> Iterator[str]:
            for path in videos:
                if suspected and key_of(path) in suspected:
                    suspects.append(path)
                else:
                    yield path

        coming = _PushBack(in_company())
        while True:
            for row, doubtful in self._together(coming, suspects):
                yield from self._weighed(row, _UNREADABLE.format(row.error) if doubtful else "")
            none_left = coming.is_empty()  # which may find suspects on the way
            if none_left and not suspects:
                break
            if suspects:
                self._say(f"{len(suspects)} videos that were being read then are tried one by one")
            while suspects:
                path = suspects.popleft()
                how = self._tried_in_vain(path)
                if how is None:
                    found, how = self._try(path)
                    if found is not None:
                        row, doubtful = found
                        yield from self._weighed(row, _UNREADABLE.format(row.error) if doubtful else "")
                        continue
                    if self._journal.tries[key_of(path)] < TRIES:
                        suspects.append(path)  # at the end: whoever ends processes from outside hits another one next
                        continue
                assert how is not None
                yield from self._weighed(_set_aside(path, how, self._time_limit), _KILLED.format(how.said))
        yield from self._held_back()

    def _weighed(self, row: Row, otherwise: str) -> Iterator[Row]:
        """Hand out a row, and those before it; one that the machine may be to blame for, as is said, is held back."""
        if not otherwise:
            self._in_a_row = 0
            yield from self._held_back()
            yield row
            return
        self._aside.append(row)
        self._in_a_row += 1
        if self._in_a_row >= _MOST_IN_A_ROW:
            self._journal.forgive([key_of(row.path) for row in self._aside])
            raise ModeError(f"{self._in_a_row} videos in a row {otherwise}")

    def _held_back(self) -> Iterator[Row]:
        held, self._aside = self._aside, []
        yield from held

    def close(self) -> None:
        """End the process, on purpose: what it was reading is not to blame."""
        if self._child is not None:
            self._child.end()
            self._child = None
        with suppress(InputError):  # the disk is full; what is begun is then tried alone next time, and no more
            self._journal.release([] if self._alone is None else [self._alone])
        self._alone = None

    def _together(self, coming: "_PushBack", suspects: deque[str]) -> Iterator[_Found]:
        """Read videos until no more come, or the process dies: then `suspects` are those that it had begun."""
        sent: dict[int, str] = {}
        begun: dict[int, str] = {}
        most = 64 * self._settings.batch_size  # twice what `many` has in its hands, so that it never waits for us
        ended = False
        child: _Child | None = None
        while True:
            while not ended and len(sent) + len(begun) < most:
                path = next(coming, None)
                if path is None:
                    if child is None:
                        return
                    ended = True
                    child.send(("end",))
                else:
                    child = child or self._ready()
                    self._number += 1
                    sent[self._number] = path
                    child.send(("video", self._number, path))
            assert child is not None
            message = child.receive(self._time_limit)
            if isinstance(message, Ended):
                self._lose(child)
                self._fruitless = 0 if begun else self._fruitless + 1
                if self._fruitless == _MOST_STARTS:
                    raise ModeError(f"the process that reads videos ends before it begins one ({message.said})")
                self._say(f"the process that reads videos ended ({message.said}) and is started anew")
                coming.push_back(sent.values())
                suspects.extend(begun.values())
                return
            kind = message[0]
            if kind == "begun":
                begun[message[1]] = sent.pop(message[1])
                self._journal.begin(key_of(begun[message[1]]))
            elif kind == "row":
                self._journal.answer(key_of(begun.pop(message[1])))
                yield message[2], message[3]
            elif self._is_end(message):
                return

    def _try(self, path: str) -> tuple[_Found | None, Ended | None]:
        """Read a video alone: its row, or how the process ended."""
        child, key = self._ready(), key_of(path)
        self._alone = key
        self._journal.begin(key, alone=True)
        self._number += 1
        child.send(("alone", self._number, path))
        found: _Found | None = None
        while True:
            message = child.receive(self._time_limit)
            if isinstance(message, Ended):
                self._alone = None
                self._lose(child)
                return found, message
            if message[0] == "row":
                found = message[2], message[3]
                self._journal.answer(key)
                self._alone = None
            elif self._is_end(message):
                return found, None

    def _is_end(self, message: Message) -> bool:
        """Take in what a process says of itself; whether it has done what it was told."""
        if message[0] == "broken":
            raise ModeError(f"{message[1]}; fewer videos at a time need less memory: --batch-size")
        if message[0] == "audit":
            self.audit = message[1]
        return bool(message[0] == "end")

    def _ready(self) -> "_Child":
        """A process that has loaded the model."""
        starts = 0
        while self._child is None:
            child = _Child(replace(self._settings, audited=self.audit, precision=self.precision), self._time_limit)
            self._child = child
            message = child.receive(max(self._time_limit, _LOADING))
            if isinstance(message, Ended):
                self._lose(child)
                starts += 1
                if starts == _MOST_STARTS:
                    raise ModeError(f"the process that reads videos cannot start ({message.said})")
            elif message[0] == "refused":
                self._lose(child)
                raise InputError(message[1])
            else:
                for line in message[1] if not self._words else ():
                    self._say(line)
                self._words, self.precision = message[1] or [""], message[2]
        return self._child

    def _lose(self, child: "_Child") -> None:
        child.end()
        self._child = None

    def _tried_in_vain(self, path: str) -> Ended | None:
        """How a video that was tried often enough by earlier processes has ended them."""
        return Ended("in an earlier run") if self._journal.tries[key_of(path)] >= TRIES else None


class _Child:
    """The process, seen from its parent.

    Args:
        settings: What it loads.
        time_limit: Seconds that it may take to take in, or give out, a message that was begun.
    """

    def __init__(self, settings: Settings, time_limit: float) -> None:
        self._pipe: Connection[Message, Message]
        self._pipe, theirs = Pipe()
        self._deaf = False  # a process that stands still reads nothing, and what lies between us holds only so much
        with socket.socket(fileno=os.dup(self._pipe.fileno())) as ours:
            limit = struct.pack("ll", *divmod(math.ceil(time_limit * 1e6), 10**6))
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        root = str(Path(dynvid.__file__).parents[1])
        # Not by multiprocessing, which would run the script that called us once more. The process inherits the mask:
        # Ctrl-C and the like are ours, also before the process can say so itself.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, root, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what libraries print is no output of ours
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()  # so that ours ends with the process
        self.send(settings)  # type: ignore[arg-type]

    def send(self, message: Message) -> None:
        """Tell it something; where it has just died or does not take it in, an answer to come says so."""
        if self._deaf:
            return
        try:
            self._pipe.send(message)
        except BlockingIOError:
            self._deaf = True
        except OSError:
            pass

    def receive(self, limit: float) -> Message | Ended:
        """What it says next, or how it ended."""
        failed, hung = "", Ended(f"no word for {limit:g} s", hung=True)
        try:
            if not self._pipe.poll(0 if self._deaf else limit):
                return hung
            message = self._pipe.recv()
            if message[0] != "failed":
                return message
            failed = message[1]
        except BlockingIOError:  # within a message
            return hung
        except (EOFError, OSError):
            pass
        except Exception as error:  # torn within a message
            failed = str(error)
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return Ended(failed or "it closed its pipe")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Ended(failed or name)

    def end(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)  # longer only where a dead disk holds it
        self._pipe.close()


class _PushBack(Iterator[str]):
    """An iterator that takes back what was not used."""

    def __init__(self, source: Iterator[str]) -> None:
        self._source, self._back = source, deque[str]()

    def __next__(self) -> str:
        return self._back.popleft() if self._back else next(self._source)

    def push_back(self, items: Iterable[str]) -> None:
        self._back.extend(items)

    def is_empty(self) -> bool:
        item = next(self, None)
        if item is not None:
            self._back.appendleft(item)
        return item is None


def _set_aside(path: str, how: Ended, time_limit: float) -> Row:
    if how.hung:
        return Row(path, error=f"{path}: held up the process that read it for {time_limit:g} s, twice")
    return Row(path, error=f"{path}: killed the process that read it, twice ({how.said})")
