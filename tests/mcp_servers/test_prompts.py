"""The server's own prompts, and those of a user's folder, hostile files among them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import anyio
import mcp_types as t
import pytest
from mcp import Client, MCPError
from mcp.client.subscriptions import PromptsListChanged

from mcp_servers.announcements import Announcements
from mcp_servers.model_server.prompts import (
    MAX_FILE_BYTES,
    MAX_FILES,
    PromptFolder,
    read_prompt,
    read_prompts,
)
from mcp_servers.model_server.server import build_server
from mcp_servers.model_server.service import open_service
from mcp_servers.model_server.tools import Surface
from mcp_servers.prompt_handlers import PromptMessage
from mcp_servers.toolset_server import build_server as build_plain_server
from tests.helpers.model_service import ERAS, connect, scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.tool_servers import RecordingToolset
from tools.errors import ConfigurationError
from tools.spec import TextContent

OWN = ["delegate", "extract_table", "review_privately"]
WEEKLY = """---
name: weekly
title: Weekly report
description: Sum up a week.
arguments:
  - name: notes
    description: What happened.
    required: true
  - name: tone
    values: [plain, formal]
---

Sum up, {{tone}}: {{ notes }}. {"json": {{notes}}}
"""


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


async def rendered(folder: Path, name: str, arguments: dict[str, str]) -> str:
    (prompt,) = [one for one in read_prompts(folder) if one.name == name]
    (message,) = await prompt.render(arguments)
    assert isinstance(message.content, TextContent)
    assert message == PromptMessage("user", message.content)
    return message.content.text


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
async def test_own_prompts_are_offered_and_filled(era: str) -> None:
    async with connect(scripted_models(play(ScriptedTurn("hi"))), era=era) as client:
        prompts = (await client.list_prompts()).prompts
        assert [prompt.name for prompt in prompts] == OWN
        found = await client.get_prompt(
            "extract_table", {"source": "a {{columns}} b", "columns": "name, age"}
        )
        review = await client.get_prompt("review_privately", {"document": "x"})
        focus = await client.complete(
            t.PromptReference(name="review_privately"), {"name": "focus", "value": "r"}
        )
        with pytest.raises(MCPError, match="prompt 'delegate' needs 'task'"):
            await client.get_prompt("delegate", {"task": ""})
    content = found.messages[0].content
    assert isinstance(content, t.TextContent)
    assert "the columns name, age of the source" in content.text
    assert content.text.endswith("Source:\na {{columns}} b")  # what was given is not read again
    content = review.messages[0].content
    assert isinstance(content, t.TextContent)
    assert "What to look for: errors, gaps, risks and unclear passages" in content.text
    assert focus.completion.values == ["risks"]


@pytest.mark.anyio
async def test_a_file_is_a_prompt(tmp_path: Path) -> None:
    prompt = read_prompt(write(tmp_path, "a.md", WEEKLY))
    assert (prompt.name, prompt.title) == ("weekly", "Weekly report")
    assert prompt.description == "Sum up a week."
    notes, tone = prompt.arguments
    assert (notes.name, notes.description, notes.is_required) == ("notes", "What happened.", True)
    assert (tone.name, tone.is_required) == ("tone", False)
    assert tone.values is not None
    assert list(tone.values("")) == ["plain", "formal"]
    text = await rendered(tmp_path, "weekly", {"notes": "{{tone}}"})
    assert text == 'Sum up, : {{tone}}. {"json": {{tone}}}'


def test_a_short_file_is_named_like_itself(tmp_path: Path) -> None:
    prompt = read_prompt(write(tmp_path, "short.md", "---\ntitle: Short\n---\nDo it.\r\n"))
    assert (prompt.name, prompt.description) == ("short", "The prompt short.")
    assert prompt.arguments == ()


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\n" + "".join(
    f"{chr(99 + n)}: &{chr(99 + n)} [*{chr(98 + n)}, *{chr(98 + n)}]\n" for n in range(20)
)
WRONG: list[tuple[str | bytes, str]] = [
    ("just text", "it has no head of YAML between two lines of ---"),
    ("---\nname: a\n", "it has no head"),
    ("---\nname: [\n---\nx", "its head is no YAML in line 2"),
    ("---\n- a\n---\nx", "its head must be a mapping"),
    ("---\nname: a b\n---\nx", "its name 'a b' must be 1 to 64 letters"),
    ("---\nname: ../../etc\n---\nx", "its name '../../etc' must be"),
    ("---\nname: 3\n---\nx", "its name must be a text, not a int"),
    ("---\ntitle: [a]\n---\nx", "its title must be a text, not a list"),
    ("---\ntitle: a\n---\n \n", "it has no text below its head"),
    ("---\ntitle: a\n---\n{{b}}", "its text names {{b}}, which is no argument; there are none"),
    ("---\narguments: {a: b}\n---\nx", "its arguments must be a list of at most 20"),
    ("---\narguments: [a]\n---\nx", "argument 1 must be a mapping with a name"),
    ("---\narguments: [{name: a}, {name: a}]\n---\nx", "argument 2 needs a name of its own"),
    ("---\narguments: [{name: a, required: 3}]\n---\nx", "required of argument 'a' must be true"),
    ("---\narguments: [{name: a, values: 3}]\n---\nx", "values of argument 'a' must be a list"),
    ("---\n!!python/object/apply:os.system [id]\n---\nx", "its head is no YAML in line 2"),
    ("---\n" + "- " * 3000 + "\n---\nx", "its head"),
    ("---\nwhen: 2024-99-99\n---\nx", "its head nests too deep, or holds an impossible value"),
    ("---\n" + "# " * 10000 + "\n---\nx", "its head has more than 16 KiB"),
    ("---\n" + BOMB + "title: *t\n---\nx", "its title must be a text, not a list"),
    (b"---\ntitle: \xff\n---\nx", "it is no UTF-8: invalid start byte at byte 11"),
    (b"\0" * 100, "it has no head"),
    (b"", "it has no head"),
    (b"x" * (MAX_FILE_BYTES + 1), "it has more than 256 KiB"),
]


@pytest.mark.parametrize(("text", "problem"), WRONG)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str | bytes, problem: str) -> None:
    path = write(tmp_path, "wrong.md", text)
    with pytest.raises(ConfigurationError) as caught:
        read_prompt(path)
    assert problem in str(caught.value)


def test_wrong_files_are_logged_and_disturb_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "a.md", WEEKLY)
    write(tmp_path, "b.md", WEEKLY)
    write(tmp_path, "c.md", b"\xff")
    write(tmp_path, "d.md", "---\nname: delegate\n---\nx")
    write(tmp_path, "e.txt", WEEKLY)
    write(tmp_path, ".f.md", WEEKLY)
    os.mkfifo(tmp_path / "g.md")
    (tmp_path / "h.md").mkdir()
    write(tmp_path, "i.md", "---\ntitle: I\n---\nx")
    with caplog.at_level(logging.WARNING):
        found = read_prompts(tmp_path, OWN)
    assert [prompt.name for prompt in found] == ["weekly", "i"]
    assert [record.getMessage().partition(" is left out: ")[2] for record in caplog.records] == [
        "another prompt is named 'weekly' already; give this one another name",
        "it is no UTF-8: invalid start byte at byte 0",
        "another prompt is named 'delegate' already; give this one another name",
    ]


def test_a_folder_of_very_many_files_is_read_in_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(MAX_FILES + 1):
        write(tmp_path, f"p{number:03}.md", "---\ntitle: P\n---\nx")
    assert len(read_prompts(tmp_path)) == MAX_FILES
    assert "has 201 prompt files, the first 200 are read" in caplog.text


@pytest.mark.anyio
async def test_a_folder_that_is_none_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = PromptFolder(write(tmp_path, "file", "x"))
    for _ in range(3):
        assert [prompt.name for prompt in await folder.list_prompts()] == OWN
    assert [record.getMessage() for record in caplog.records] == [
        f"the prompts in {tmp_path / 'file'} cannot be read: Not a directory"
    ]
    assert [prompt.name for prompt in await PromptFolder(tmp_path / "no").list_prompts()] == OWN


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
async def test_a_changed_folder_is_read_again(tmp_path: Path, era: str) -> None:
    models = scripted_models(play(ScriptedTurn("hi")))
    folder = tmp_path / "prompts"
    surface = Surface(prompts_folder=folder)
    with anyio.fail_after(5):
        async with (
            open_service(["scripted"], models.opened, surface=surface) as service,
            Client(build_server(service, version="1"), mode=era) as client,
        ):
            assert [one.name for one in (await client.list_prompts()).prompts] == OWN
            folder.mkdir()
            path = write(folder, "w.md", WEEKLY)
            listed = await client.list_prompts(cache_mode="bypass")
            assert [one.name for one in listed.prompts] == [*OWN, "weekly"]
            path.unlink()
            listed = await client.list_prompts(cache_mode="bypass")
            assert [one.name for one in listed.prompts] == OWN


@pytest.mark.anyio
async def test_clients_of_both_eras_are_told_of_a_changed_folder(tmp_path: Path) -> None:
    folder, heard = PromptFolder(tmp_path), anyio.Event()
    server = build_plain_server("s", RecordingToolset(["work"]), prompts=folder.list_prompts)
    announcements: Announcements = server.announcements

    async def hear(message: object) -> None:
        if isinstance(message, t.PromptListChangedNotification):
            heard.set()

    async def watch() -> None:
        await folder.watch(announcements.prompts_changed, 0.001)

    async def change() -> None:
        for number in range(1000):
            write(tmp_path, "w.md", WEEKLY + " " * number)
            await anyio.sleep(0.005)

    with anyio.fail_after(5):
        async with (
            Client(server, mode="legacy", message_handler=hear) as old,
            Client(server) as new,
            new.listen(prompts_list_changed=True) as stream,
            anyio.create_task_group() as group,
        ):
            capabilities = old.server_capabilities
            assert capabilities is not None
            assert capabilities.prompts is not None
            assert capabilities.prompts.list_changed is True
            group.start_soon(watch)
            group.start_soon(change)
            await heard.wait()
            async for event in stream:
                assert event == PromptsListChanged()
                break
            group.cancel_scope.cancel()
