"""Models on the Hugging Face hub, by name; nothing but the files of a model's folder is fetched."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from dynvid.errors import InputError, MissingFileError
from dynvid.folder.files import CARD, CONFIG, WEIGHTS

FILES = (WEIGHTS, CONFIG, CARD)
GRAPHS = {"onnx": ["onnx/step_*.onnx"], "openvino": ["openvino/step_*", "onnx/step_*.onnx", "int8/step_*"]}
# The HTTP client's (whichever it is, that is what the hub's are derived from), a name that is none, a full disk.
_OTHERS: tuple[type[Exception], ...] = (*HfHubHTTPError.__mro__[:2], HFValidationError, OSError)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_FILES_OF_OURS = (".ckpt", ".pt", ".pth", ".safetensors")  # a path that is mistyped is asked of nobody


def local(source: str | Path, runtime: str = "torch") -> Path:
    """Where a model lies: the path itself, or, where there is no such path, the hub's model of that name, fetched.

    Args:
        source: A path, or `user/name`.
        runtime: Graphs for it are fetched too.

    Raises:
        FileNotFoundError: There is neither such a path nor such a model.
        ValueError: The hub cannot be reached, or does not give it.

    Example:
        >>> local("runs/best.ckpt")
        PosixPath('runs/best.ckpt')
    """
    path = Path(source)
    if not isinstance(source, str) or not _NAME.fullmatch(source) or source.endswith(_FILES_OF_OURS) or path.exists():
        return path
    return fetch(source, runtime)


def fetch(name: str, runtime: str = "torch", **options: Any) -> Path:
    """Fetch a model from the hub, or find it in the cache; see `local`.

    Args:
        name: `user/name`.
        runtime: Graphs for it are fetched too.
        options: `revision`, `token`, `cache_dir`, `force_download` and `local_files_only` of the hub's client.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: The hub cannot be reached, or does not give it.
    """
    with hub_errors(name):
        files = [*FILES, *GRAPHS.get(runtime, [])]
        found = Path(snapshot_download(name, allow_patterns=files, endpoint=constants.ENDPOINT, **options))
    missing = [file for file in (CONFIG, WEIGHTS) if not (found / file).is_file()]
    if missing:
        raise InputError(f"{name}: is no model of dynvid: {constants.ENDPOINT} has no {' and no '.join(missing)} of it")
    return found


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Say in one line what the hub, or the way to it, has against it.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: The hub cannot be reached, or does not do what it is asked for.
    """
    hub = constants.ENDPOINT
    try:
        yield
    except GatedRepoError as error:  # a kind of the next
        raise InputError(f"{name}: {hub} gives it to those only who asked for access: `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise MissingFileError(f"{name}: {hub} has no such revision of it") from error
    except RepositoryNotFoundError as error:
        raise MissingFileError(f"{name}: no such file or folder here, and no such model on {hub}") from error
    except LocalEntryNotFoundError as error:
        why = " ".join(str(error.__cause__ or error).split())[:100]
        raise InputError(f"{name}: no such file or folder here, and {hub} does not give it now ({why})") from error
    except _OTHERS as error:
        raise InputError(f"{name}: {hub}: {' '.join(str(error).split())[:200]}") from error
