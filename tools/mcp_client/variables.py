"""The variables that hosts' files may use, and the files of variables that they name.

`${NAME}`, `${NAME:-default}`, `${env:NAME}`, `${input:id}`, `${userHome}`,
`${workspaceFolder}`, `${workspaceFolderBasename}`, `${pathSeparator}` and `${/}`.
Source: documentation of Claude Code, Cursor and VS Code, reference of November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.errors import ConfigurationError

INPUT_PREFIX = "ZONDA_INPUT_"
"""The variable `ZONDA_INPUT_API_KEY` answers the input `api-key`, which an editor asks for."""

_VARIABLE = re.compile(r"\$\{([^${}]*)\}")
_ENVIRONMENT = re.compile(r"(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_EDITORS_OWN = ("command:", "config:", "extensionInstallFolder:")
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*?)\s*")
_UNQUOTED_COMMENT = re.compile(r"(?:^|\s)#.*")


@dataclass(frozen=True, slots=True)
class Variables:
    """What stands for each variable of one file.

    Attributes:
        environ: the environment of whoever reads the file.
        folder: what `${workspaceFolder}` stands for.
        inputs: descriptions of what an editor would ask for, by input id.
    """

    environ: Mapping[str, str]
    folder: Path
    inputs: Mapping[str, str]

    def expand(self, text: str) -> str:
        """Replace each variable; what is none of ours stays as it is.

        Raises:
            ConfigurationError: a variable is not set, or only an editor could know it.
        """
        return _VARIABLE.sub(self._value, text)

    def _value(self, match: re.Match[str]) -> str:
        name = match[1]
        folders = {
            "userHome": self.environ.get("HOME") or self.environ.get("USERPROFILE"),
            "workspaceFolder": str(self.folder),
            "workspaceFolderBasename": self.folder.name,
            "pathSeparator": "/",
            "/": "/",
        }
        if (folder := folders.get(name)) is not None:
            return folder
        if name.startswith("input:"):
            return self._input(name.removeprefix("input:"))
        if name.startswith(_EDITORS_OWN):
            raise ConfigurationError(f"{match[0]}: only the editor knows it; write the value")
        if (variable := _ENVIRONMENT.fullmatch(name)) is None:
            return match[0]
        found = self.environ.get(variable[1], variable[2])
        if found is None:
            raise ConfigurationError(f"{match[0]}: the variable {variable[1]} is not set")
        return found

    def _input(self, input_id: str) -> str:
        variable = INPUT_PREFIX + re.sub(r"[^A-Za-z0-9]", "_", input_id).upper()
        if (value := self.environ.get(variable)) is not None:
            return value
        description = self.inputs.get(input_id)
        told = f" ({description})" if description else ""
        raise ConfigurationError(
            f"the input {input_id!r}{told} is asked for by the editor; here the variable "
            f"{variable} must hold it"
        )


def read_env_file(path: Path) -> Mapping[str, str]:
    """Return the variables of a file of `NAME=value` lines: comments, quotes and `export` as usual.

    Raises:
        ConfigurationError: it cannot be read, or a line is something else; values are not shown.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as exc:
        raise ConfigurationError(f"envFile {path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"envFile {path} is not UTF-8 at byte {exc.start}") from exc
    values: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if (match := _LINE.fullmatch(line)) is None:
            raise ConfigurationError(f"envFile {path}, line {number}: expected NAME=value")
        values[match[1]] = _unquote(match[2])
    return values


def _unquote(value: str) -> str:
    quote = value[:1]
    if quote in {'"', "'"} and (end := value.find(quote, 1)) > 0:
        inner = value[1:end]
        return inner.replace("\\n", "\n") if quote == '"' else inner
    return _UNQUOTED_COMMENT.sub("", value).rstrip()
