"""Takes Zonda's client of tool servers through one client scenario of MCP's conformance suite.

`python -m tests.conformance.client URL`, started by the suite, which says in the environment what
it wants. The browser and the person who logs in are played here; all else is what Zonda runs.
Source: @modelcontextprotocol/conformance 0.2.0-alpha.12.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2

from tools.errors import ToolServerError, ZondaError
from tools.mcp_client.config import ServerConfig, Timeouts
from tools.mcp_client.login import log_in
from tools.mcp_client.oauth_config import OAuthConfig
from tools.mcp_client.server import ServerConnection
from tools.mcp_client.token_store import TokenStore
from tools.questions import Answer, Question
from tools.spec import JsonObject, ToolSpec
from tools.toolset import CallContext

logger = logging.getLogger(__name__)

NAME = "suite"
PREFIX = f"{NAME}__"
ECHO = f"{PREFIX}json_schema_echo"
LOGIN = "zonda mcp login"
MAX_LOGINS = 3
CLIENT_METADATA_URL = "https://conformance-test.local/client-metadata.json"
"""The suite's document that stands for a client of this kind."""

CALLS: Mapping[str, Sequence[tuple[str, JsonObject]]] = {
    "tools_call": [("add_numbers", {"a": 5, "b": 3})],
    "sse-retry": [("test_reconnection", {})],
    "elicitation-sep1034-client-defaults": [("test_client_elicitation_defaults", {})],
}
"""What a scenario wants called; elsewhere it is each tool that is offered."""


async def main(url: str, scenario: str, context: dict[str, Any]) -> None:
    """Do what the scenario wants, and log in whenever Zonda says that this is needed."""
    limits = Timeouts(connect_s=30, idle_s=30, total_s=45)
    oauth = await configure_oauth(url, scenario, context)
    config = ServerConfig(NAME, url=url, oauth=oauth, timeouts=limits)
    with tempfile.TemporaryDirectory() as folder:
        store = TokenStore(Path(folder))
        problem = await use(config, store, scenario, context)
        for _ in range(MAX_LOGINS):
            if problem is None or LOGIN not in problem:
                break
            await log_in(config, store, browse)
            problem = await use(config, store, scenario, context)
        if problem is not None:
            raise ToolServerError(problem)


async def use(
    config: ServerConfig, store: TokenStore, scenario: str, context: dict[str, Any]
) -> str | None:
    """Connect, list the tools, call those of the scenario; return why it did not work.

    Calls go to the connection: some are wrong on purpose, and a toolset would not make them.
    """
    connection = ServerConnection(config, tokens=store)
    async with anyio.create_task_group() as group:
        group.start_soon(connection.run)
        state = await connection.wait_for("ready", "failed")
        problem = f"server {NAME!r} {state.reason}" if state.status == "failed" else None
        for name, arguments in calls_of(connection.tools, scenario, context):
            try:
                result = await connection.call(name, arguments, CallContext(ask=accept_defaults))
                logger.info("%s: %s", name, result)
            except ToolServerError as exc:
                logger.info("%s: %s", name, exc)
                problem = str(exc) if LOGIN in str(exc) else problem
        group.cancel_scope.cancel()
    return problem


def calls_of(
    tools: Sequence[ToolSpec], scenario: str, context: dict[str, Any]
) -> Sequence[tuple[str, JsonObject]]:
    if "toolCalls" in context:
        return [(PREFIX + call["name"], call["arguments"]) for call in context["toolCalls"]]
    if scenario in CALLS:
        return [(PREFIX + name, arguments) for name, arguments in CALLS[scenario]]
    if scenario == "json-schema-2020-12-preservation":
        schemas = {tool.name: tool.input_schema for tool in tools}
        seen = next(schema for name, schema in schemas.items() if name != ECHO)
        return [(ECHO, {"schema": seen})]
    return [(tool.name, arguments_of(tool)) for tool in tools]


def arguments_of(tool: ToolSpec) -> JsonObject:
    """The least that a tool takes."""
    simple = {"string": "x", "integer": 1, "number": 1.5, "boolean": True, "array": []}
    properties = tool.input_schema.get("properties", {})
    return {
        name: simple.get(properties.get(name, {}).get("type"), {})
        for name in tool.input_schema.get("required", [])
    }


async def accept_defaults(question: Question) -> Answer:
    """Accept a form as a person does who changes nothing in it."""
    properties = question.schema.get("properties", {})
    given = {name: one["default"] for name, one in properties.items() if "default" in one}
    return Answer("accept", given)


async def browse(url: str) -> None:
    """Log in as the suite's only user, who agrees to everything."""
    async with httpx2.AsyncClient(follow_redirects=True, trust_env=False) as browser:
        response = await browser.get(url)
    logger.info("the browser ended at %s with %s", response.url, response.status_code)


async def configure_oauth(url: str, scenario: str, context: dict[str, Any]) -> OAuthConfig:
    """What an operator would write who was told what the suite tells."""
    oauth = OAuthConfig(
        client_id=context.get("client_id", ""),
        client_secret=context.get("client_secret", ""),
        private_key=context.get("private_key_pem", ""),
        key_algorithm=context.get("signing_algorithm", "ES256"),
        client_metadata_url=CLIENT_METADATA_URL,
    )
    if scenario.startswith("auth/client-credentials"):
        return replace(oauth, grant="client_credentials", issuer=await find_issuer(url))
    if scenario == "auth/enterprise-managed-authorization":
        return replace(
            oauth,
            grant="id_token",
            issuer=await find_issuer(url),
            id_token=context["idp_id_token"],
            id_token_endpoint=context["idp_token_endpoint"],
            id_token_client_id=context["idp_client_id"],
        )
    return oauth


async def find_issuer(url: str) -> str:
    """The issuer that an operator would know."""
    parts = httpx2.URL(url)
    place = parts.copy_with(path=f"/.well-known/oauth-protected-resource{parts.path}")
    async with httpx2.AsyncClient(trust_env=False) as client:
        metadata = (await client.get(place)).json()
    return str(metadata["authorization_servers"][0])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    given = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    try:
        anyio.run(main, sys.argv[-1], os.environ.get("MCP_CONFORMANCE_SCENARIO", ""), given)
    except ZondaError as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")
