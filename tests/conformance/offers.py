"""The resources and prompts that the suite reads, as data for our factory."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence

from mcp_servers.prompt_handlers import (
    EmbeddedResource,
    Prompt,
    PromptArgument,
    PromptMessage,
)
from mcp_servers.resource_handlers import Asked, Resource
from tests.conformance.tools import PNG
from tools.spec import MediaContent, TextContent

Render = Callable[[Mapping[str, str]], Awaitable[Sequence[PromptMessage]]]


def _always(content: str | bytes) -> Callable[[Asked], Awaitable[str | bytes]]:
    async def read(asked: Asked) -> str | bytes:
        return content

    return read


async def _of_template(asked: Asked) -> str:
    number = asked.variables["id"]
    return json.dumps({"id": number, "templateTest": True, "data": f"Data for ID: {number}"})


RESOURCES = (
    Resource(
        uri="test://static-text",
        name="static-text",
        description="A text.",
        mime_type="text/plain",
        read=_always("This is the content of the static text resource."),
    ),
    Resource(
        uri="test://static-binary",
        name="static-binary",
        description="An image.",
        mime_type="image/png",
        read=_always(PNG),
    ),
    Resource(
        uri="test://watched-resource",
        name="watched-resource",
        description="A text that may be subscribed to.",
        mime_type="text/plain",
        read=_always("watched"),
    ),
    Resource(
        uri="test://template/{id}/data",
        name="template",
        description="Data by number.",
        mime_type="application/json",
        read=_of_template,
    ),
)


def _says(*contents: TextContent | MediaContent) -> Render:
    async def render(arguments: Mapping[str, str]) -> Sequence[PromptMessage]:
        return [PromptMessage("user", content) for content in contents]

    return render


async def _with_arguments(arguments: Mapping[str, str]) -> Sequence[PromptMessage]:
    text = f"Prompt with arguments: arg1='{arguments['arg1']}', arg2='{arguments['arg2']}'"
    return [PromptMessage("user", TextContent(text))]


async def _with_resource(arguments: Mapping[str, str]) -> Sequence[PromptMessage]:
    embedded = EmbeddedResource(
        arguments["resourceUri"], "text/plain", "Embedded resource content for testing."
    )
    please = TextContent("Please process the embedded resource above.")
    return [PromptMessage("user", embedded), PromptMessage("user", please)]


PROMPTS = (
    Prompt(
        "test_simple_prompt",
        "A prompt.",
        _says(TextContent("This is a simple prompt for testing.")),
    ),
    Prompt(
        "test_prompt_with_arguments",
        "A prompt with arguments.",
        _with_arguments,
        (
            PromptArgument("arg1", "One.", True, lambda principal: ["test", "text"]),
            PromptArgument("arg2", "Two.", True),
        ),
    ),
    Prompt(
        "test_prompt_with_embedded_resource",
        "A prompt that holds a resource.",
        _with_resource,
        (PromptArgument("resourceUri", "Its address.", True),),
    ),
    Prompt(
        "test_prompt_with_image",
        "A prompt that holds an image.",
        _says(
            MediaContent("image", PNG, "image/png"), TextContent("Please analyze the image above.")
        ),
    ),
    Prompt(
        "test_input_required_result_prompt",
        "A prompt that asks first.",
        _says(TextContent("It was asked.")),
    ),
)
