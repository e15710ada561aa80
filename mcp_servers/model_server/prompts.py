"""The prompts of the model server: our own, and files of a user's folder.

A file is Markdown below a YAML head between two lines of `---`. The head may have `name` (the
file's where absent), `title`, `description` and `arguments`, each with `name`, `description`,
`required` and `values` for completion; in the text, `{{name}}` stands for an argument. A file
that is wrong is logged and left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from mcp_servers.prompt_handlers import Prompt, PromptArgument, PromptMessage
from tools.errors import ConfigurationError, suggest
from tools.spec import TextContent

logger = logging.getLogger(__name__)

MAX_FILES = 200
MAX_FILE_BYTES = 256 << 10
MAX_HEAD_BYTES = 16 << 10
MAX_ARGUMENTS = 20
MAX_VALUES = 200
WATCH_INTERVAL_S = 2.0
"""How often the folder is looked at for changes."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PLACE = re.compile(r"\{\{ *([A-Za-z0-9_.-]+) *\}\}")
_HEAD = re.compile(r"---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)

_DELEGATE = """\
Do this task with the help of the local model of the zonda server. It is private, free and quick, \
but small and without any knowledge of this conversation.

Task: {{task}}

Split it so that the local model gets what is simple and repetitive: extract for values from \
text, choose to classify, generate_batch for many items at once, generate for short texts. Give \
each call all that it needs to know, and one thing to do. Keep planning, judgement and the final \
answer to yourself, and check a few of its results before you rely on them. A result with status \
"running" is no error: call run_result with its run_id."""

_EXTRACT_TABLE = """\
Make a table with the columns {{columns}} of the source below, with the extract tool of the zonda \
server: one call with a schema of an array of objects, one field a column, and the source as \
input; for a source of more than a few pages one call for each part. Show the table as Markdown, \
leave a field empty where the source does not say, and invent nothing.

Source:
{{source}}"""

_REVIEW_PRIVATELY = """\
Review the document below with the local model of the zonda server, so that its text stays on \
this machine: pass it only to tools of that server, quote no more of it than needed, and send it \
to no other tool or service. Ask with extract for a list of findings, each with the passage, the \
problem and a remedy, then sum them up. What to look for: {{focus}}

Document:
{{document}}"""


def own_prompts() -> tuple[Prompt, ...]:
    """Build the prompts that are always there."""
    return (
        text_prompt(
            "delegate",
            "Do a task with the local model's help: how to split it.",
            (PromptArgument("task", "What to do.", is_required=True),),
            _DELEGATE,
            title="Delegate to the local model",
        ),
        text_prompt(
            "extract_table",
            "Turn a text into a table, by a local model that decodes under a schema.",
            (
                PromptArgument("source", "The text, or where it is.", is_required=True),
                PromptArgument("columns", "The columns' names.", is_required=True),
            ),
            _EXTRACT_TABLE,
            title="Extract a table",
        ),
        text_prompt(
            "review_privately",
            "Review a document whose text must not leave this machine.",
            (
                PromptArgument("document", "The text, or where it is.", is_required=True),
                PromptArgument(
                    "focus",
                    "What to look for; everything when absent.",
                    values=lambda principal: ("errors", "risks", "style", "personal data"),
                ),
            ),
            _REVIEW_PRIVATELY,
            title="Review privately",
            defaults={"focus": "errors, gaps, risks and unclear passages"},
        ),
    )


def text_prompt(
    name: str,
    description: str,
    arguments: tuple[PromptArgument, ...],
    text: str,
    *,
    title: str | None = None,
    defaults: Mapping[str, str] | None = None,
) -> Prompt:
    """Build a prompt of one message, `{{argument}}` standing for what is given."""

    async def render(given: Mapping[str, str]) -> Sequence[PromptMessage]:
        values = {**(defaults or {}), **{name: value for name, value in given.items() if value}}
        filled = _PLACE.sub(lambda place: values.get(place[1], ""), text)
        return [PromptMessage("user", TextContent(filled))]

    return Prompt(name, description, render, arguments, title)


class PromptFolder:
    """Our own prompts and those of a folder, which is read again when it has changed.

    `folder` need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = own_prompts()
        self._seen: object = None
        self._found: tuple[Prompt, ...] = ()
        self._lock = anyio.Lock()

    async def list_prompts(self) -> Sequence[Prompt]:
        """All prompts as they are now: ours, then the folder's by the names of their files."""
        async with self._lock:
            seen = await anyio.to_thread.run_sync(_look, self._folder)
            if seen != self._seen:
                taken = [prompt.name for prompt in self._own]
                found = await anyio.to_thread.run_sync(read_prompts, self._folder, taken)
                self._seen, self._found = seen, tuple(found)
            return (*self._own, *self._found)

    async def watch(
        self, changed: Callable[[], Awaitable[None]], interval_s: float = WATCH_INTERVAL_S
    ) -> None:
        """Tell of every change of the folder, until cancelled."""
        seen = await anyio.to_thread.run_sync(_look, self._folder)
        while True:
            await anyio.sleep(interval_s)
            now = await anyio.to_thread.run_sync(_look, self._folder)
            if now != seen:
                seen = now
                await changed()


def read_prompts(folder: Path, taken: Sequence[str] = ()) -> list[Prompt]:
    """Read a folder's files; what is wrong with one is logged and disturbs no other.

    Two prompts of one name, or of one that is `taken`, are wrong: the first file's is kept.
    """
    prompts: dict[str, Prompt] = {}
    try:
        paths = _files(folder)
    except OSError as exc:
        logger.warning("the prompts in %s cannot be read: %s", folder, exc.strerror or exc)
        return []
    if len(paths) > MAX_FILES:
        logger.warning(
            "%s has %d prompt files, the first %d are read", folder, len(paths), MAX_FILES
        )
    for path in paths[:MAX_FILES]:
        try:
            prompt = read_prompt(path)
            if prompt.name in prompts or prompt.name in taken:
                raise ConfigurationError(
                    f"another prompt is named {prompt.name!r} already; give this one another name"
                )
        except ConfigurationError as exc:
            logger.warning("the prompt %s is left out: %s", path, exc)
        else:
            prompts[prompt.name] = prompt
    return list(prompts.values())


def read_prompt(path: Path) -> Prompt:
    """Read one file.

    Raises:
        ConfigurationError: it cannot be read, or is none of a prompt; says what is wrong.
    """
    text = _read_text(path)
    found = _HEAD.match(text)
    if found is None:
        raise ConfigurationError("it has no head of YAML between two lines of ---")
    head = _read_head(found[1])
    name = _text(head, "name", path.stem)
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"its name {name[:80]!r} must be 1 to 64 letters, digits, dots, - or _"
        )
    arguments = _read_arguments(head.get("arguments", []))
    body = text[found.end() :].strip()
    if not body:
        raise ConfigurationError("it has no text below its head")
    known = [argument.name for argument in arguments]
    for place in _PLACE.finditer(body):
        if place[1] not in known:
            problem = f"its text names {place[0][:80]}, which is no argument"
            raise ConfigurationError(problem + suggest(place[1][:80], known))
    title = _text(head, "title", "") or None
    return text_prompt(
        name, _text(head, "description", f"The prompt {name}."), arguments, body, title=title
    )


def _files(folder: Path) -> list[Path]:
    """The prompt files of a folder; none where it is not there."""
    if not folder.exists():
        return []
    named = (path for path in folder.iterdir() if path.suffix == ".md" and path.name[0] != ".")
    return sorted(path for path in named if path.is_file())


def _look(folder: Path) -> object:
    """Another value once a file came, went or was written."""
    seen = []
    try:
        for path in _files(folder):
            stat = path.stat()
            seen.append((path.name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    except OSError as exc:  # it went while we looked, or nobody may
        return seen, exc.errno
    return seen


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigurationError(f"it has more than {MAX_FILE_BYTES >> 10} KiB")
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as exc:
        raise ConfigurationError(f"it cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"it is no UTF-8: {exc.reason} at byte {exc.start}") from exc


def _read_head(text: str) -> Mapping[str, Any]:
    import yaml

    if len(text) > MAX_HEAD_BYTES:
        raise ConfigurationError(f"its head has more than {MAX_HEAD_BYTES >> 10} KiB")
    try:
        head = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 2}"
        problem = getattr(exc, "problem", None) or "it cannot be parsed"
        raise ConfigurationError(f"its head is no YAML{where}: {problem}") from exc
    except (RecursionError, ValueError) as exc:
        raise ConfigurationError("its head nests too deep, or holds an impossible value") from exc
    if not isinstance(head, dict):
        raise ConfigurationError("its head must be a mapping, such as `description: …`")
    return head


def _read_arguments(given: object) -> tuple[PromptArgument, ...]:
    if not isinstance(given, list) or len(given) > MAX_ARGUMENTS:
        raise ConfigurationError(f"its arguments must be a list of at most {MAX_ARGUMENTS}")
    arguments: dict[str, PromptArgument] = {}
    for number, one in enumerate(given, 1):
        if not isinstance(one, dict):
            raise ConfigurationError(f"argument {number} must be a mapping with a name")
        name = _text(one, "name", "")
        if not _NAME.fullmatch(name) or name in arguments:
            raise ConfigurationError(
                f"argument {number} needs a name of its own: 1 to 64 letters, digits, dots, - or _"
            )
        is_required = one.get("required", False)
        if not isinstance(is_required, bool):
            raise ConfigurationError(f"required of argument {name!r} must be true or false")
        arguments[name] = PromptArgument(
            name, _text(one, "description", ""), is_required, _read_values(name, one)
        )
    return tuple(arguments.values())


def _read_values(name: str, given: Mapping[str, Any]) -> Callable[[str], Iterable[str]] | None:
    if (values := given.get("values")) is None:
        return None
    is_list = isinstance(values, list) and len(values) <= MAX_VALUES
    if not is_list or not all(isinstance(value, str) for value in values):
        raise ConfigurationError(
            f"values of argument {name!r} must be a list of at most {MAX_VALUES} texts"
        )
    return lambda principal: values


def _text(given: Mapping[str, Any], key: str, default: str) -> str:
    value = given.get(key, default)
    if not isinstance(value, str):
        raise ConfigurationError(f"its {key} must be a text, not a {type(value).__name__}")
    return value.strip()
