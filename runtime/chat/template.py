"""Renders a checkpoint's own chat template, which is a program of strangers.

Jinja's immutable sandbox keeps it from touching anything; bounds on loops, time and size
keep it from taking the process with it.

Source: the Jinja dialect of Hugging Face's `apply_chat_template` (`tojson`,
`raise_exception`, `strftime_now`, `loopcontrols`, `generation`, trimmed blocks).
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from runtime.errors import TemplateError
from tools.spec import JsonObject

MAX_SOURCE_CHARS = 256 * 1024
MAX_ITERATIONS = 200_000
MAX_CHARS = 16 * 1024 * 1024
MAX_SECONDS = 10.0

_BUDGET = "render_budget"
# Whatever a hostile or broken program can raise from the operators and filters it may use.
_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class ChatTemplate:
    """A compiled template; rendering is safe from several threads.

    Args:
        source: the Jinja source.
        variables: names every rendering sees, such as `bos_token`.
        write_json: what the filter `tojson` calls: (value, indent) to text.

    Raises:
        TemplateError: the source is too long or not Jinja.
    """

    def __init__(
        self,
        source: str,
        variables: Mapping[str, str],
        write_json: Callable[[Any, int | None], str],
    ) -> None:
        if len(source) > MAX_SOURCE_CHARS:
            raise TemplateError(
                f"the chat template has {len(source)} characters; at most {MAX_SOURCE_CHARS}"
                " are read"
            )
        environment = _Environment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            cache_size=0,
        )
        environment.globals |= {
            **variables,
            "raise_exception": _raise_exception,
            "strftime_now": _format_now,
        }
        environment.filters |= {
            "tojson": _json_filter(write_json),
            "bounded": _bounded,
            "checked": _checked,
        }
        try:
            tree = _Bounded().visit(environment.parse(source))
            tree.set_environment(environment)
            self._template = environment.from_string(tree)
        except _FAILURES as exc:
            raise TemplateError(f"the model's chat template is broken: {exc}") from exc

    def render(
        self,
        messages: Sequence[JsonObject],
        tools: Sequence[JsonObject] | None = None,
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """Render a conversation; the template sees `variables` by their names.

        Raises:
            TemplateError: the template refuses these messages, fails, or does not end.
        """
        budget = _Budget()
        chunks: list[str] = []
        values = {
            **variables,
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
            _BUDGET: budget,
        }
        try:
            for chunk in self._template.generate(values):
                budget.spend_chars(len(chunk))
                chunks.append(chunk)
        except _FAILURES as exc:
            raise TemplateError(
                f"the model's chat template cannot render these messages: {exc}"
            ) from exc
        return "".join(chunks)


class _Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self._iterations_left = MAX_ITERATIONS
        self._chars_left = MAX_CHARS
        self._deadline_s = time.monotonic() + MAX_SECONDS

    def iterate(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._iterations_left -= 1
            if self._iterations_left < 0 or time.monotonic() > self._deadline_s:
                raise jinja2.TemplateRuntimeError("it runs too long")
            yield value

    def spend_chars(self, count: int) -> None:
        self._chars_left -= count
        if self._chars_left < 0:
            raise jinja2.TemplateRuntimeError(f"it writes more than {MAX_CHARS} characters")


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with the operators that can blow up memory intercepted."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and max(_size(left), _size(right)) > 1_000:
            raise jinja2.TemplateRuntimeError("it raises a number to a large power")
        if operator == "*" and _size(left) * _size(right) > MAX_CHARS:
            raise jinja2.TemplateRuntimeError("it repeats a value too often")
        result = super().call_binop(context, operator, left, right)
        return result if isinstance(result, int) else _checked(result)


class _Generation(Extension):
    """`{% generation %}` marks what a model says, for its training; what is in it is rendered."""

    tags = {"generation"}  # noqa: RUF012 the base class's type

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Bounded(NodeTransformer):
    """Routes each loop and each joined text of a template through its budget."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 the visitor's name for it
        if node.recursive:
            raise jinja2.TemplateSyntaxError("recursive loops are not supported", node.lineno)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "bounded")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 as above
        self.generic_visit(node)
        return _filtered(node, "checked")


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@jinja2.pass_context
def _bounded(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    budget = context.resolve(_BUDGET)
    if not isinstance(budget, _Budget):
        raise jinja2.TemplateRuntimeError(f"it overwrites {_BUDGET!r}")
    return budget.iterate(values)


def _checked(value: Any) -> Any:
    if _size(value) > MAX_CHARS:
        raise jinja2.TemplateRuntimeError(f"it builds a value of more than {MAX_CHARS} characters")
    return value


def _size(value: Any) -> int:
    """Length of a text or list; a number counts as itself, for `*`."""
    if isinstance(value, (str, bytes, list, tuple)):
        return len(value)
    return max(1, abs(value)) if isinstance(value, int) else 1


def _json_filter(write_json: Callable[[Any, int | None], str]) -> Callable[..., str]:
    def tojson(value: Any, indent: int | None = None, **_: Any) -> str:
        return write_json(value, indent)

    return tojson


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateRuntimeError(message)


def _format_now(pattern: str) -> str:
    return datetime.datetime.now().astimezone().strftime(pattern)
