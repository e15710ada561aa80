"""Use Zonda as any MCP host does: start `zonda mcp` and call its tools over stdio."""

import sys

import anyio
from mcp import Client, StdioServerParameters

from runtime.config import process_environment

SERVER = StdioServerParameters(
    command=sys.executable,
    args=["-P", "-m", "mcp_servers", "mcp"],
    env=dict(process_environment()),
)


async def main() -> None:
    async with Client(SERVER) as client:
        tools = await client.list_tools()
        print("tools:", ", ".join(tool.name for tool in tools.tools))

        result = await client.call_tool(
            "choose",
            {"question": "Is this review good or bad? I love it!", "options": ["good", "bad"]},
        )
        print(result.structured_content)

        schema = {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}},
            "required": ["city"],
            "additionalProperties": False,
        }
        result = await client.call_tool(
            "extract", {"instructions": "Which city is this? I live in Oslo.", "schema": schema}
        )
        print(result.structured_content)


if __name__ == "__main__":
    anyio.run(main)
