"""Let a local model use a tool server that speaks MCP over stdio, as Claude Desktop would."""

import json
import sys
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from runtime.agent.events import AgentEnd, ToolCallFinished
from runtime.agent.limits import Limits
from runtime.agent.loop import Agent
from runtime.agent.policy import Policy
from runtime.chat.messages import Message, ToolChoice
from runtime.config import load_config, process_environment
from runtime.hub import Hub
from runtime.request import SamplingParams
from tools.mcp_client.config import load_servers
from tools.mcp_client.toolset import open_toolset

SHORT = SamplingParams(max_tokens=64)
# Any file of `mcpServers` works, also Claude Desktop's and Cursor's.
SERVERS = {
    "workbench": {
        "command": sys.executable,
        "args": ["-P", "-m", "mcp_servers", "workbench"],
        # Denied tools are not offered, which also makes the prompt shorter.
        "x-runtime": {"tools": {"deny": ["read_file", "list_files", "add_note", "list_notes"]}},
    }
}


async def main(folder: Path) -> None:
    file = folder / "mcp.json"
    file.write_text(json.dumps({"mcpServers": SERVERS}), encoding="utf-8")
    servers = load_servers(file, process_environment())
    async with open_toolset(servers) as toolset, Hub(load_config()) as hub:
        policy = Policy.of_servers(servers)
        agent = Agent(await hub.get(), toolset, policy, Limits(max_steps=3))
        task = "Multiply 17 by 23 with the calculator, then tell me the product in a sentence."
        call_first = ToolChoice("required", parallel=False)
        run = agent.run([Message("user", task)], tool_choice=call_first, sampling=SHORT)
        async with aclosing(run) as events:
            async for event in events:
                if isinstance(event, ToolCallFinished):
                    print(event.call.name, event.call.arguments, "->", event.result.text)
                elif isinstance(event, AgentEnd):
                    print(event.answer)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        anyio.run(main, Path(folder))
