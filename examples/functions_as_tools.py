"""Give a local model Python functions as tools, and watch the agent use them."""

from contextlib import aclosing
from typing import Annotated

import anyio
from pydantic import Field

from runtime.agent.events import AgentEnd, ToolCallFinished
from runtime.agent.loop import Agent
from runtime.chat.messages import Message, ToolChoice
from runtime.config import load_config
from runtime.hub import Hub
from runtime.request import SamplingParams
from tools.function import FunctionToolset, function_tool

STOCK = {"apples": 12, "pears": 7}


def count_stock(
    fruit: Annotated[str, Field(description="What to count.", pattern="^(apples|pears)$")],
) -> int:
    """Count how many pieces of a fruit are in stock."""
    return STOCK[fruit]


async def main() -> None:
    async with Hub(load_config()) as hub:
        agent = Agent(await hub.get(), FunctionToolset(function_tool(count_stock)))
        question = [Message("user", "How many pears are in stock?")]
        # The grammar makes every call fit the schema: "pears" or "apples", nothing else.
        call_first = ToolChoice("required", parallel=False)
        run = agent.run(question, tool_choice=call_first, sampling=SamplingParams(max_tokens=64))
        async with aclosing(run) as events:
            async for event in events:
                if isinstance(event, ToolCallFinished):
                    print(event.call.name, event.call.arguments, "->", event.result.text)
                elif isinstance(event, AgentEnd):
                    print(event.answer)


if __name__ == "__main__":
    anyio.run(main)
