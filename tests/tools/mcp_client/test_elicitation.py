"""Which questions of servers are passed on, and which answers to them."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.errors import InvalidRequestError
from tools.mcp_client.elicitation import to_elicit_result, to_question
from tools.questions import Answer, Question
from tools.spec import JsonObject
from tools.validation import first_problem

KEYS = st.sampled_from(
    ["type", "properties", "required", "enum", "default", "items", "oneOf", "title", "a", "$ref"]
)


def form(fields: Any, message: str = "Well?", **more: Any) -> types.ElicitRequestFormParams:
    schema = {"type": "object", "properties": fields, **more}
    return types.ElicitRequestFormParams(message=message, requested_schema=schema)


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("password", {"type": "string"}, "Well?"),
        ("dbPassword", {"type": "string"}, "Well?"),
        ("API_KEY", {"type": "string"}, "Well?"),
        ("x", {"type": "string", "title": "Access token"}, "Well?"),
        ("x", {"type": "string", "description": "Your passphrase"}, "Well?"),
        ("x", {"type": "string", "format": "password"}, "Well?"),
        ("x", {}, "Please enter the admin password of the database."),
        ("pin", {"type": "integer"}, "Well?"),
        ("x", {}, "Do not share it with others. Please type your PIN."),
    ],
)
def test_a_field_for_something_secret_is_refused(name: str, field: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match="looks like something secret"):
        to_question("s", form({name: field}, message))


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("max_tokens", {"type": "integer"}, "How many tokens?"),
        ("spinner", {"type": "string"}, "Well?"),
        ("rotate_secret", {"type": "boolean"}, "Rotate the secret?"),
        ("auth", {"type": "string", "enum": ["token", "none"]}, "How do you sign in?"),
        (
            "n",
            {"type": "integer", "description": "A number (do not enter a PIN)"},
            "Never enter it.",
        ),
        ("region", {"type": "string"}, "The API key is set. Which region?"),
    ],
)
def test_a_field_for_something_else_is_not(name: str, field: Any, message: str) -> None:
    asked = form({name: field}, message)
    question = to_question("s", asked)
    assert question == Question(f"The tool server 's' asks: {message}", asked.requested_schema)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (form(None), "no object of at most 32 fields"),
        (form({str(n): {"type": "string"} for n in range(33)}), "no object of at most 32 fields"),
        (form({"a": {"type": "object"}}), "'a' of its form is not a plain one"),
        (form({"a": True}), "'a' of its form is not a plain one"),
        (form({"a": {"type": "string", "minLength": "x"}}), "its form is no schema"),
        (form({"a": {"type": "string", "description": "x" * 20_000}}), "16384 characters"),
    ],
)
def test_a_form_that_nobody_can_fill_in_is_refused(
    asked: types.ElicitRequestFormParams, problem: str
) -> None:
    with pytest.raises(InvalidRequestError, match=problem):
        to_question("s", asked)


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "file:///etc/passwd", "https://", "https://[x", "https://a b", "x"],
)
def test_a_person_is_sent_to_pages_only(url: str) -> None:
    asked = types.ElicitRequestURLParams(message="Go.", url=url)
    with pytest.raises(InvalidRequestError, match="which is no page"):
        to_question("s", asked)


def test_what_hides_in_a_message_and_its_length_are_cut() -> None:
    question = to_question("s", form({}, "\x1b[2J\u202eHi" + "x" * 9000))
    assert question.message == "The tool server 's' asks: " + ("[2JHi" + "x" * 9000)[:2000]


def test_what_hides_in_a_form_is_cut_and_its_values_stay() -> None:
    hidden = "T\u202eitle\u200b"
    field = {"type": "string", "title": hidden, "description": hidden, "enum": [hidden]}
    question = to_question("s", form({"a": field}, title=hidden))
    told = {"type": "string", "title": "Title", "description": "Title", "enum": [hidden]}
    assert question.schema == {"type": "object", "title": "Title", "properties": {"a": told}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=20)  # each schema is compiled
@given(schema=st.dictionaries(KEYS, JSON, max_size=5), answer=st.dictionaries(KEYS, JSON))
def test_whatever_a_server_sends_is_a_question_or_refused(
    schema: JsonObject, answer: JsonObject
) -> None:
    asked = types.ElicitRequestFormParams(message="Well?", requested_schema=schema)
    try:
        question = to_question("s", asked)
        told = to_elicit_result(question, Answer("accept", answer))
    except InvalidRequestError:
        return
    assert first_problem(question.schema, told.content) is None


def test_an_accepted_form_has_its_fields_and_defaults_and_no_others() -> None:
    asked = form({"a": {"type": "integer"}, "b": {"type": "string", "default": "x"}})
    question = to_question("s", asked)
    cases: list[tuple[JsonObject | None, JsonObject]] = [
        ({"a": 1, "c": 2}, {"a": 1, "b": "x"}),
        ({"b": "y"}, {"b": "y"}),
        (None, {"b": "x"}),
    ]
    for content, told in cases:
        result = to_elicit_result(question, Answer("accept", content))
        assert result == types.ElicitResult(action="accept", content=told)
    with pytest.raises(InvalidRequestError, match=r"does not fit the form: \$.a: 'z' is not of"):
        to_elicit_result(question, Answer("accept", {"a": "z"}))
    some = to_question("s", form({"a": {"type": "array"}}))
    with pytest.raises(InvalidRequestError, match="a value that no form has"):
        to_elicit_result(some, Answer("accept", {"a": [{}]}))
    declined = to_elicit_result(question, Answer("decline", {"a": 1}))
    assert declined == types.ElicitResult(action="decline")
