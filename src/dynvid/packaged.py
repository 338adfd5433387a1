"""The packaged configs."""

from pathlib import Path


def config_files() -> dict[str, Path]:
    """The packaged configs by name, such as `quickstart.yaml`."""
    package = Path(__file__).parent
    # An editable install has them in the repository.
    folders = package.parents[1] / "configs", package / "configs"
    return {path.name: path for folder in folders for path in folder.glob("*.yaml")}
