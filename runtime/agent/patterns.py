"""Patterns of tools' arguments: exact values and globs, for texts, paths and URLs.

A model writes the arguments, so a rule has to hold whatever they are. What allows must fit for
certain: a path after `..` and symbolic links are resolved, as they are when the call is decided;
a URL's host by itself. What asks or denies fits whatever might be meant, by any spelling.
"""

from __future__ import annotations

import json
import os.path
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

Scalar = str | int | float | bool

_ODD_IN_URL = re.compile(r"[\s\\\x00-\x1f\x7f]")
_PORTS = {"http": 80, "https": 443}
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Pattern:
    """What an argument may be.

    A number or a truth value stands for itself. A text is a glob: `*` is any text, `?` any
    character. One that begins with `/`, `~/` or `**/` is a path, where `*` stays within a
    folder's name and `**` is any number of folders. One with `://` is a URL: scheme, host and
    port, then a path; queries are not looked at.
    """

    value: Scalar

    def fits(self, argument: Any, *, is_cautious: bool) -> bool:
        """Whether an argument that is no list fits; where cautious, doubt counts as fitting."""
        if not isinstance(argument, Scalar):
            return is_cautious
        if not isinstance(self.value, str):
            return type(argument) is type(self.value) and argument == self.value
        if is_path(self.value):
            return _fits_path(self.value, argument, is_cautious=is_cautious)
        if "://" in self.value:
            return _fits_url(self.value, argument, is_cautious=is_cautious)
        text = argument if isinstance(argument, str) else json.dumps(argument)
        return glob(self.value, text, is_cautious=is_cautious)


def fits_any(patterns: Sequence[Pattern], argument: Any, *, is_cautious: bool) -> bool:
    """Whether an argument fits one of the patterns.

    Of a list every item has to; where cautious, one item is enough.
    """
    if isinstance(argument, list):
        fits = [fits_any(patterns, item, is_cautious=is_cautious) for item in argument]
        return any(fits) if is_cautious else bool(fits) and all(fits)
    return any(pattern.fits(argument, is_cautious=is_cautious) for pattern in patterns)


def is_path(pattern: str) -> bool:
    """Whether a pattern is one of paths."""
    return pattern == "~" or pattern.startswith(("/", "~/", "**/"))


def is_unplaced(pattern: Scalar) -> bool:
    """Whether a pattern is a path relative to nobody knows what, which means nothing."""
    if not isinstance(pattern, str) or is_path(pattern):
        return False
    return pattern in {".", ".."} or pattern.startswith(("./", "../", "~"))


def glob(pattern: str, text: str, *, is_cautious: bool = False) -> bool:
    """Whether a text is what a pattern with `*` and `?` says; case counts unless cautious."""
    if is_cautious:
        pattern, text = pattern.casefold(), text.casefold()
    return _match(pattern, text, "*", lambda one, char: one in {"?", char})


def _match(
    pattern: Sequence[_Item],
    items: Sequence[_Item],
    star: _Item,
    fits: Callable[[_Item, _Item], bool],
) -> bool:
    """Whether items are what a pattern says, where `star` is any number of items.

    In time of at most len(pattern) * len(items): only the last star is ever gone back to.
    """
    at = done = 0
    star_at, star_done = -1, 0
    while done < len(items):
        if at < len(pattern) and pattern[at] == star:
            star_at, star_done = at, done
            at += 1
        elif at < len(pattern) and fits(pattern[at], items[done]):
            at += 1
            done += 1
        elif star_at >= 0:
            star_done += 1
            at, done = star_at + 1, star_done
        else:
            return False
    return all(one == star for one in pattern[at:])


def _fits_path(pattern: str, argument: Scalar, *, is_cautious: bool) -> bool:
    if not isinstance(argument, str) or "\0" in argument:
        return is_cautious
    home = os.path.expanduser("~")  # noqa: PTH111 - texts, not paths, are compared
    path = home + argument[1:] if argument == "~" or argument.startswith("~/") else argument
    pattern = home + pattern[1:] if pattern.startswith("~") else pattern
    pattern = pattern.rstrip("/") or "/"
    is_placed = path.startswith("/")
    if not is_placed and pattern.startswith("/"):
        return is_cautious  # relative to where the server is, which is not known
    fits = [_fits_folders(pattern, _normal(path), is_cautious=is_cautious)]
    if is_placed:
        real = os.path.realpath(path)
        fits.append(_fits_folders(_real(pattern), _normal(real), is_cautious=is_cautious))
    return any(fits) if is_cautious else all(fits)


def _fits_folders(pattern: str, path: str, *, is_cautious: bool) -> bool:
    def fits(one: str, name: str) -> bool:
        return glob(one, name, is_cautious=is_cautious)

    return _match(pattern.split("/"), path.split("/"), "**", fits)


def _normal(path: str) -> str:
    """A path without `.`, `..` and doubled slashes; links are not looked at."""
    normal = posixpath.normpath(path)
    return normal[1:] if normal.startswith("//") else normal


def _real(pattern: str) -> str:
    """A pattern with the links resolved in what stands before its first wildcard."""
    folders = pattern.split("/")
    wild = next((at for at, one in enumerate(folders) if "*" in one or "?" in one), len(folders))
    if wild < 2:
        return pattern
    real = os.path.realpath("/".join(folders[:wild])).rstrip("/")
    return "/".join([real, *folders[wild:]]) or "/"


def _fits_url(pattern: str, argument: Scalar, *, is_cautious: bool) -> bool:
    if not isinstance(argument, str) or _ODD_IN_URL.search(argument):
        return is_cautious
    scheme, _, rest = pattern.partition("://")
    host, slash, path = rest.partition("/")
    url = argument if "://" in argument or not is_cautious else f"{scheme}://{argument}"
    try:
        parts = urlsplit(url)
        place = _place(parts)
    except ValueError:
        return is_cautious
    if parts.username is not None and not is_cautious:
        return False
    wanted = host if ":" in host else f"{host}:{_PORTS.get(scheme, '')}"
    if is_cautious:
        place, wanted = place.partition(":")[0], wanted.partition(":")[0]
    return (
        scheme.lower() in {parts.scheme, "*"}
        and glob(wanted.lower(), place)
        and _fits_folders(
            _normal("/" + path) if slash else "/**" if is_cautious else "/",
            _normal("/" + unquote(parts.path)),
            is_cautious=is_cautious,
        )
    )


def _place(parts: SplitResult) -> str:
    """Host and port of a URL.

    Raises:
        ValueError: it has none, or one with odd characters.
    """
    host = (parts.hostname or "").rstrip(".")
    if not re.fullmatch(r"[\w.-]+", host):
        raise ValueError(host)
    return f"{host}:{parts.port or _PORTS.get(parts.scheme, '')}"
