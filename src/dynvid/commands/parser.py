"""What the commands' parsers share: errors of one line, and configs by path or by packaged name."""

from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]  # exported at run time
from pytorch_lightning.cli import LightningArgumentParser

from dynvid.errors import InputError
from dynvid.packaged import config_files


class Parser(LightningArgumentParser):
    """A parser whose errors are one line: the usage of `fit` alone fills a screen."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        self.exit(2, f"dynvid: error: {' '.join(message.split())}\n")


class ConfigFile(ActionConfigFile):
    """A config given by path or by the name of a packaged one."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Resolve the name, then parse."""
        name = str(values)
        if Path(name).suffix in (".yaml", ".yml"):
            name = find_config(name)
            read_yaml(name)  # says what is wrong with it in one line
        super().__call__(parser, cfg, name, option_string)  # type: ignore[no-untyped-call]


def find_config(name: str) -> str:
    """A path as it is, or where the packaged config of that name lies.

    Raises:
        InputError: There is neither.
    """
    if Path(name).is_file():
        return name
    if name not in config_files():
        known = ", ".join(sorted(config_files()))
        raise InputError(f"config {name}: no such file, and no packaged config; there are {known}")
    return str(config_files()[name])


def read_yaml(name: str) -> dict[str, Any]:
    """The content of a config.

    Raises:
        InputError: It is no YAML mapping.
    """
    try:
        with open(name, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"config {name}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"config {name}: not a YAML mapping")
    return content
