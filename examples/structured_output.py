"""Get JSON that fits a schema, whatever the model: the grammar allows nothing else."""

import json

import anyio
from pydantic import BaseModel, Field

from runtime.chat.messages import Message, OutputSchema, TurnEnd
from runtime.config import load_config
from runtime.hub import Hub


class Person(BaseModel):
    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=150)


async def main() -> None:
    async with Hub(load_config()) as hub:
        model = await hub.get()
        text = "Ada Lovelace, 36 years old, lives in London."
        messages = [Message("user", f"Who is this about? Answer in JSON. {text}")]
        schema = OutputSchema(Person.model_json_schema())
        async for event in model.stream(messages, output=schema):
            if isinstance(event, TurnEnd):
                person = Person.model_validate(json.loads(event.message.content))
                print(repr(person))
                print(event.usage.forced_tokens, "tokens were forced by the grammar")


if __name__ == "__main__":
    anyio.run(main)
