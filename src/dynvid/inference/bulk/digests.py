"""What tells a model, or a list of videos, from others."""

import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path


def digest_of_model(model: str | Path) -> str:
    """What tells a model from others: a digest of the file, or of all files of a folder; a name stands for itself."""
    path = Path(model)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest_of_names(f"{file.relative_to(path)} {digest_of_file(file)}" for file in files)
    return digest_of_file(path) if path.is_file() else str(model)


def digest_of_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def digest_of_names(names: Iterable[str]) -> str:
    """SHA-256 of names, in their order."""
    digest = sha256()
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    return f"sha256:{digest.hexdigest()}"
