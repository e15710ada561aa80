"""Ask for values of Python types in the language of `outlines`; every answer parses as its type."""

import datetime
from typing import Literal

import anyio
from outlines.types import Regex
from pydantic import BaseModel, Field

from runtime import (
    Agent,
    AgentEnd,
    FunctionToolset,
    Hub,
    Message,
    SamplingParams,
    from_output_type,
    load_config,
    open_outlines_model,
)


class Animal(BaseModel):
    name: str = Field(max_length=20)
    legs: int = Field(ge=0, le=100)


def count_legs(animal: Literal["cat", "ant", "crab"]) -> int:
    """Count the legs of an animal."""
    return {"cat": 4, "ant": 6, "crab": 10}[animal]


def ask_plainly() -> None:
    """A script without async: the model runs behind `with`."""
    with open_outlines_model() as model:
        print(Animal.model_validate_json(model("Describe a cat in JSON.", Animal)))
        print(model("Is a cat an animal?", Literal["yes", "no"]))
        print(datetime.date.fromisoformat(model("When was the moon landing?", datetime.date)))
        print(model("Make up a licence plate.", Regex("[A-Z]{2}-[0-9]{3}")))
        batch = model.batch(["Describe an ant.", "Describe a crab."], Animal | Literal["unknown"])
        print(batch)


async def ask_with_tools() -> None:
    """An agent may call its tools; its final answer is of the type."""
    async with Hub(load_config()) as hub:
        agent = Agent(await hub.get(), FunctionToolset(count_legs))
        question = [Message("user", "How many legs has an ant? Use the tool.")]
        sampling = SamplingParams(max_tokens=64)
        answer_type = from_output_type(Animal)
        async for event in agent.run(question, output=answer_type, sampling=sampling):
            if isinstance(event, AgentEnd):
                print(Animal.model_validate_json(event.answer), f"after {len(event.calls)} calls")


if __name__ == "__main__":
    ask_plainly()
    anyio.run(ask_with_tools)
