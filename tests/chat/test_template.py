"""Tests of rendering untrusted templates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.chat.template import ChatTemplate
from runtime.errors import TemplateError

USER = {"role": "user", "content": "hello"}


def template_of(source: str) -> ChatTemplate:
    def write_json(value: Any, indent: int | None) -> str:
        return json.dumps(value, indent=indent)

    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, write_json)


RENDERED = [
    (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m['content'] }};{% endfor %}",
        "<s>user:hello;",
    ),
    (
        "{% for m in messages %}\n{{ loop.index }}/{{ loop.length }}{{ loop.last }}\n{% endfor %}",
        "1/1True\n",
    ),
    ("a{% generation %}b{{ messages[0].role }}{% endgeneration %}c", "abuserc"),
    ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
    ("{{ 'a' ~ 1 ~ 'b' + 'c' }}|{{ 2 * 3 }}|{{ [1] + [2] }}|{{ 'x' * 3 }}", "a1bc|6|[1, 2]|xxx"),
    ("{{ tools | tojson }}{{ {'a': 1} | tojson(indent=2) }}", 'null{\n  "a": 1\n}'),
    (
        "{% set n = namespace(v=0) %}{% for i in [1, 2] %}{% set n.v = i %}{% endfor %}{{ n.v }}",
        "2",
    ),
    (
        "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) }}{{ add_generation_prompt }}",
        "[1]True",
    ),
    ("{% for k, v in {'a': 1}.items() if v %}{{ k }}{% else %}none{% endfor %}", "a"),
]


@pytest.mark.parametrize(("source", "text"), RENDERED)
def test_templates_render_as_jinja_does(source: str, text: str) -> None:
    assert template_of(source).render([USER]) == text


REFUSED = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "{% set n = namespace(x='aa') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='aa') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{{ 'a' * 999999999 }}",
    "{{ 9 ** 999999 }}",
    "{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% set render_budget = 1 %}{% for i in range(2) %}{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{{ raise_exception('roles must alternate') }}",
    "{{ missing.attribute }}",
    "{{ 1 / 0 }}",
    "{% include 'other' %}",
]


@pytest.mark.parametrize("source", REFUSED)
def test_whatever_a_template_does_wrong_is_an_error_of_ours(source: str) -> None:
    with pytest.raises(TemplateError):
        template_of(source).render([USER])


def test_broken_or_endless_source_is_refused_at_once() -> None:
    for source in ("{% if %}", "{{ " * 9, "x" * 300_000):
        with pytest.raises(TemplateError):
            template_of(source)


def test_reason_of_the_template_reaches_the_caller() -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        template_of("{{ raise_exception('roles must alternate') }}").render([USER])
