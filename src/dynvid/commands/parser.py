"""What the commands' parsers share: errors of one line, and configs by path or by packaged name."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]  # exported at run time
from pytorch_lightning.cli import LightningArgumentParser

from dynvid.commands.arguments import refusal
from dynvid.errors import InputError
from dynvid.packaged import config_files

_YAML = (".yaml", ".yml")
_UNKNOWN = re.compile(  # what jsonargparse says of a key that it does not know
    r"(?:Group '([^']+)'|Subcommand '[^']+') does not accept option '([^']+)'"
    r"|Option '([^']+)' is not accepted|unrecognized arguments: --([^\s=]+)"
)


class Parser(LightningArgumentParser):
    """A parser whose errors are one line: the usage of `fit` alone fills a screen.

    Attributes:
        words: The command line that is being read. The parsers that jsonargparse makes for nested classes see a piece
            of it only, and their errors are to name keys in full.
    """

    words: ClassVar[Sequence[str]] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)  # a key that is cut short is misspelt

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """Read a command line; the parsers of subcommands and nested classes read theirs within it."""
        if Parser.words:
            return super().parse_args(args, *rest, **kwargs)
        Parser.words = sys.argv[1:] if args is None else args
        try:
            return super().parse_args(args, *rest, **kwargs)
        finally:
            Parser.words = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        if unknown := _UNKNOWN.search(message):
            message = self._no_such(_plain(".".join(filter(None, unknown.groups()))))
        self.exit(2, refusal(message))

    def _no_such(self, key: str) -> str:
        """Name a key in full, where it was given, and the one that was meant."""
        own = self._keys()
        everything = list(given(Parser.words))
        places = [place for place in everything if f".{place.key}".endswith(f".{key}")]

        def strangers(place: Given) -> int:  # what else was given there and is unknown here: none in the right place
            before = place.key.removesuffix(key)
            beside = {other.key.removeprefix(before) for other in everything if other.key.startswith(before)}
            return len({name.split(".")[0] for name in beside} - {name.split(".")[0] for name in own})

        # Where both have it, it is the command line: a config may hold sections that a command passes over.
        place = min(places, key=lambda place: (strangers(place), place.source != "--"), default=Given("", key, None))
        before = place.key.removesuffix(key)
        return f"{place}: no such key{_meant(place, {before + name for name in own})}"

    def _keys(self) -> set[str]:
        """The keys that this parser takes, or its subcommand does."""
        keys = {action.dest for action in self._actions if not re.search(r"help$|^print_|^subcommand$", action.dest)}
        for action in self._actions:
            if isinstance(action.choices, dict) and Parser.words:
                command = action.choices.get(Parser.words[0])
                keys |= command._keys() if isinstance(command, Parser) else set()
        return keys


class ConfigFile(ActionConfigFile):
    """A config given by path or by the name of a packaged one."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Resolve the name, then parse."""
        name = str(values)
        if Path(name).suffix in _YAML:
            name = find_config(name)
            read_yaml(name)  # says what is wrong with it in one line
        super().__call__(parser, cfg, name, option_string)  # type: ignore[no-untyped-call]


class DataOfConfig(ConfigFile):
    """A config of which only `data` is taken."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Read the file, and parse that section of it."""
        data = read_yaml(find_config(str(values))).get("data") or {}
        if not isinstance(data, dict):
            raise InputError(f"config {values}: `data` is no section with a class_path")
        if not isinstance(data.get("init_args") or {}, dict):
            raise InputError(f"config {values}: `data.init_args` is no mapping")
        if data and "class_path" not in data and not cfg.get("data"):
            raise InputError(f"config {values}: no class_path in its `data`, nor in a config before it")
        ActionConfigFile.__call__(self, parser, cfg, yaml.safe_dump({"data": data} if data else {}), option_string)  # type: ignore[no-untyped-call]
        cfg[self.dest][-1] = values


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


class Given(NamedTuple):
    """A key as it was given: on the command line (its source is `--`) or in a config."""

    source: str
    key: str
    value: Any

    def __str__(self) -> str:
        return self.source + self.key


def given(words: Sequence[str]) -> Iterator[Given]:
    """The keys that a command line sets and those in its configs, in order; `init_args` is no part of them."""
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        option, equals, value = word.partition("=")
        if not option.startswith("-"):
            continue
        text = value if equals else "" if following.startswith("--") else following
        name, source, content = option.lstrip("-").rstrip("+"), "--", text
        if Path(text).suffix in _YAML and (name in ("c", "config") or os.path.isfile(text)):
            text, source = Path(find_config(text)).read_text("utf-8", "replace"), f"config {text}: "
        with suppress(yaml.YAMLError):
            content = yaml.safe_load(text)
        if name not in ("c", "config"):
            yield from _leaves({name: content}, source)
        elif isinstance(content, dict):
            yield from _leaves(content, source)


def _leaves(content: dict[str, Any], source: str, before: str = "") -> Iterator[Given]:
    for name, value in content.items():
        key = _plain(f"{before}{name}")
        if key and key != before.rstrip("."):
            yield Given(source, key, value)
        for inside in value if isinstance(value, list) else [value]:
            if isinstance(inside, dict):
                yield from _leaves(inside, source, f"{key}.")


def _meant(place: Given, known: set[str]) -> str:
    """The key that was meant: the nearest at the level where the given one goes astray."""
    dashes = place.source if place.source == "--" else ""
    parts = place.key.split(".")
    level: set[str] = set()
    for depth in range(len(parts)):
        paths = [path for name in known if len(path := name.split(".")) > depth and path[:depth] == parts[:depth]]
        level = {path[depth] for path in paths}
        if parts[depth] in level:
            continue
        if near := get_close_matches(parts[depth], level):
            return f"; did you mean {dashes}{'.'.join([*parts[:depth], near[0], *parts[depth + 1 :]])}?"
        if depth == 0 and (near := get_close_matches(place.key, known)):  # max_epochs for trainer.max_epochs
            return f"; did you mean {dashes}{near[0]}?"
        break
    return f"; there are {', '.join(sorted(level))}" if level else ""


def _plain(key: str) -> str:
    """A key as one types it: without the words that only YAML needs."""
    return ".".join(part for part in key.split(".") if part not in ("", "init_args", "class_path"))
