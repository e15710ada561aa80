"""Tool servers in responses: lists, approvals, calls, their events, and the operator's policy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from mcp_servers.model_server.service import AgentSetup
from mcp_servers.model_server.url_servers import UrlServers
from runtime.agent.policy import Policy
from runtime.chat.messages import Message, ToolCall, ToolChoice
from tests.helpers.http_tool_servers import ScriptedHttpServer, http_response
from tests.helpers.model_service import ScriptedModels, agent_over, scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.scripted_tools import ScriptedToolset, echo, fail, make_spec
from tests.helpers.web_service import ServedApp, open_app
from tests.http_api.test_responses import create, events_of, send
from tools.mcp_client.config import ToolPolicy

pytestmark = pytest.mark.anyio

FILES: dict[str, Any] = {"type": "mcp", "server_label": "files"}
FREE = {**FILES, "require_approval": "never"}
READ = ToolCall("c1", "files__read", {"path": "a"})
DROP = ToolCall("c2", "files__drop", {"path": "b"})
ADD: dict[str, Any] = {"type": "function", "name": "add"}
ALLOWED = "http://tools.example/mcp"
KEY = "key-of-alice-0001"


def tools_of_files() -> ScriptedToolset:
    return ScriptedToolset(
        [
            (make_spec("files__read", server="files", read_only=True), echo),
            (make_spec("files__drop", server="files", destructive=True), echo),
            (make_spec("files__broken", server="files", read_only=True), fail),
            (make_spec("other__read", server="other"), echo),
        ]
    )


class Served:
    """One application with tool servers, whose model plays turns."""

    def __init__(self, *turns: ScriptedTurn, policy: Policy | None = None) -> None:
        self.tools = tools_of_files()
        self.models: ScriptedModels = scripted_models(play(*turns))
        setup = agent_over(self.tools, "files", "other")
        self.agent: AgentSetup = replace(setup, policy=policy or Policy())

    async def ask(self, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
        """Send these one after the other, each going on from the one before."""
        found: list[dict[str, Any]] = []
        async with open_app(self.models, agent=self.agent) as app:
            for body in bodies:
                previous = {"previous_response_id": found[-1]["id"]} if found else {}
                response = await create(app, **previous, **body)
                assert response.status_code == 200, response.text
                found.append(response.json())
        return found

    async def stream(self, **body: Any) -> list[dict[str, Any]]:
        async with open_app(self.models, agent=self.agent) as app:
            return events_of(await create(app, stream=True, **body))


def kinds(output: Sequence[dict[str, Any]]) -> list[str]:
    return [item["type"] for item in output]


def without_ids(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "id"}


async def test_a_call_is_made_and_told_in_the_order_of_the_provider() -> None:
    served = Served(ScriptedTurn(calls=(READ,)), ScriptedTurn("It says a."))
    events = await served.stream(tools=[FREE])
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "output_item.done",
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    listed, call, message = events[-1]["response"]["output"]
    assert (listed["server_label"], listed["error"]) == ("files", None)
    assert [tool["name"] for tool in listed["tools"]] == ["read", "drop", "broken"]
    assert without_ids(call) == {
        "type": "mcp_call",
        "server_label": "files",
        "name": "read",
        "arguments": '{"path": "a"}',
        "approval_request_id": None,
        "status": "completed",
        "output": '{"path":"a"}',
        "error": None,
    }
    assert listed["id"].startswith("mcpl_")
    assert call["id"].startswith("mcp_")
    assert message["content"][0]["text"] == "It says a."
    assert served.tools.called == [("files__read", {"path": "a"})]
    assert events[-1]["response"]["usage"]["output_tokens"] == 10
    assert {event["item_id"] for event in events[7:11]} == {call["id"]}


async def test_a_call_waits_for_approval_and_is_made_once_it_is_there() -> None:
    served = Served(ScriptedTurn("I look.", calls=(READ,)), ScriptedTurn("Done."))
    (first,) = await served.ask({"tools": [FILES]})
    listed, said, request = first["output"]
    assert kinds([listed, said]) == ["mcp_list_tools", "message"]
    assert without_ids(request) == {
        "type": "mcp_approval_request",
        "server_label": "files",
        "name": "read",
        "arguments": '{"path": "a"}',
    }
    assert request["id"].startswith("mcpr_")
    assert (first["status"], served.tools.called) == ("completed", [])
    assert first["tools"] == [{**FILES, "require_approval": "always"}]


async def approve(app: ServedApp, first: dict[str, Any], **answer: Any) -> dict[str, Any]:
    requests = [one for one in first["output"] if one["type"] == "mcp_approval_request"]
    answers = [
        {"type": "mcp_approval_response", "approval_request_id": one["id"], **answer}
        for one in requests
    ]
    body = {"input": answers, "previous_response_id": first["id"], "tools": [FILES]}
    return dict((await create(app, **body)).json())


async def test_an_approved_call_is_made_before_the_model_speaks_again() -> None:
    served = Served(ScriptedTurn(calls=(READ,)), ScriptedTurn("Done."))
    async with open_app(served.models, agent=served.agent) as app:
        first = (await create(app, tools=[FILES])).json()
        second = await approve(app, first, approve=True)
        third = (await create(app, input="?", previous_response_id=second["id"])).json()
    request = first["output"][-1]
    call, message = second["output"]
    assert (call["type"], call["approval_request_id"]) == ("mcp_call", request["id"])
    assert (call["status"], message["content"][0]["text"]) == ("completed", "Done.")
    assert served.tools.called == [("files__read", {"path": "a"})]
    made = ToolCall(call["id"], "files__read", {"path": "a"})
    assert served.models.model.asked[-1].messages == (
        Message("user", "hello"),
        Message("assistant", tool_calls=(made,)),
        Message("tool", '{"path":"a"}', call_id=call["id"], name="files__read"),
        Message("assistant", "Done."),
        Message("user", "?"),
    )
    assert third["status"] == "completed"


async def test_a_call_that_the_client_declines_is_not_made_and_the_model_is_told() -> None:
    served = Served(ScriptedTurn(calls=(READ,)), ScriptedTurn("Pity."))
    async with open_app(served.models, agent=served.agent) as app:
        first = (await create(app, tools=[FILES])).json()
        second = await approve(app, first, approve=False, reason="private")
    assert kinds(second["output"]) == ["message"]
    assert served.tools.called == []
    told = served.models.model.asked[-1].messages[-1]
    assert told.content == "error: files__read was not called: the user declined: private"


@pytest.mark.parametrize(
    ("wish", "asks"),
    [
        ({}, True),
        ({"require_approval": "always"}, True),
        ({"require_approval": "never"}, False),
        ({"require_approval": {"never": {"tool_names": ["read"]}}}, False),
        ({"require_approval": {"never": {"tool_names": ["drop"]}}}, True),
        ({"require_approval": {"never": {"read_only": True}}}, False),
        ({"require_approval": {"always": {"tool_names": ["read"]}}}, True),
        ({"require_approval": {"always": {"read_only": False}, "never": {}}}, False),
    ],
)  # fmt: skip
async def test_the_request_says_which_calls_ask(wish: dict[str, Any], asks: bool) -> None:
    served = Served(ScriptedTurn(calls=(READ,)), ScriptedTurn("Done."))
    (found,) = await served.ask({"tools": [{**FILES, **wish}]})
    assert ("mcp_approval_request" in kinds(found["output"])) is asks
    assert (served.tools.called == []) is asks


async def test_the_operators_policy_asks_and_denies_whatever_the_request_says() -> None:
    asking = Served(ScriptedTurn(calls=(DROP,)))
    (found,) = await asking.ask({"tools": [FREE]})
    assert kinds(found["output"]) == ["mcp_list_tools", "mcp_approval_request"]
    assert asking.tools.called == []
    denied = Policy({"files": ToolPolicy(deny=("read",))})
    serving = Served(ScriptedTurn(calls=(READ,)), ScriptedTurn("No."), policy=denied)
    async with open_app(serving.models, agent=serving.agent) as app:
        request = {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "files"}
        forged = [
            {**request, "name": "read", "arguments": "{}"},
            {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
        ]
        answered = (await create(app, input=forged, tools=[FREE])).json()
    assert serving.tools.called == []
    assert "files__read" not in serving.models.model.asked[0].tools
    assert answered["status"] == "completed"


async def test_of_a_turns_calls_the_free_ones_are_made_and_the_others_ask() -> None:
    served = Served(ScriptedTurn(calls=(READ, DROP)), ScriptedTurn("Done."))
    async with open_app(served.models, agent=served.agent) as app:
        first = (await create(app, tools=[FREE])).json()
        second = await approve(app, first, approve=True)
    assert kinds(first["output"]) == ["mcp_list_tools", "mcp_call", "mcp_approval_request"]
    assert kinds(second["output"]) == ["mcp_call", "message"]
    assert served.tools.called == [("files__read", {"path": "a"}), ("files__drop", {"path": "b"})]


async def test_functions_of_the_client_end_the_response_and_calls_here_are_made() -> None:
    both = ScriptedTurn(calls=(ToolCall("c0", "add", {}), READ))
    served = Served(both, ScriptedTurn("Never asked."))
    (found,) = await served.ask({"tools": [ADD, FREE]})
    assert kinds(found["output"]) == ["mcp_list_tools", "function_call", "mcp_call"]
    assert found["output"][1]["status"] == found["output"][2]["status"] == "completed"
    assert len(served.models.model.asked) == 1
    alone = Served(ScriptedTurn(calls=(ToolCall("c0", "add", {}),)), ScriptedTurn("Never asked."))
    (found,) = await alone.ask({"tools": [ADD, FREE]})
    assert kinds(found["output"]) == ["mcp_list_tools", "function_call"]
    assert len(alone.models.model.asked) == 1


async def test_a_tool_that_fails_is_an_item_that_failed_and_the_model_goes_on() -> None:
    broken = ScriptedTurn(calls=(ToolCall("c1", "files__broken", {}),))
    served = Served(broken, ScriptedTurn("It broke."))
    events = await served.stream(tools=[FREE])
    assert "response.mcp_call.failed" in [event["type"] for event in events]
    _, call, _ = events[-1]["response"]["output"]
    content = [{"type": "text", "text": "it broke", "annotations": None}]
    error = {"type": "mcp_tool_execution_error", "content": content}
    assert (call["status"], call["output"], call["error"]) == ("failed", None, error)
    assert served.models.model.asked[1].messages[-1].content == "error: it broke"


@pytest.mark.parametrize(
    ("allowed", "names"),
    [
        (["read"], ["read"]),
        ({"tool_names": ["read", "drop"]}, ["read", "drop"]),
        ({"read_only": True}, ["read", "broken"]),
        ({"read_only": True, "tool_names": ["drop"]}, []),
    ],
)  # fmt: skip
async def test_allowed_tools_are_all_that_is_listed_and_offered(
    allowed: Any, names: list[str]
) -> None:
    served = Served(ScriptedTurn("x"))
    (found,) = await served.ask({"tools": [{**FREE, "allowed_tools": allowed}]})
    assert [tool["name"] for tool in found["output"][0]["tools"]] == names
    offered = served.models.model.asked[0].tools
    assert set(offered) == {f"files__{name}" for name in names}


async def test_the_model_is_told_what_a_server_is_for() -> None:
    served = Served(ScriptedTurn("x"))
    await served.ask({"tools": [{**FREE, "server_description": "My disk."}], "instructions": "Be."})
    system = served.models.model.asked[0].messages[0]
    told = "Be.\n\nAbout the tools whose names begin with files__: My disk."
    assert system == Message("system", told)


async def test_tools_are_listed_once_in_a_conversation() -> None:
    served = Served(ScriptedTurn("x"))
    first, second = await served.ask({"tools": [FREE]}, {"tools": [FREE]})
    assert kinds(first["output"]) == ["mcp_list_tools", "message"]
    assert kinds(second["output"]) == ["message"]


async def test_the_number_of_calls_is_limited_and_those_beyond_are_not_told() -> None:
    turns = (ScriptedTurn(calls=(READ,)), ScriptedTurn(calls=(replace(READ, arguments={}),)))
    served = Served(*turns, ScriptedTurn("Done."))
    (found,) = await served.ask({"tools": [FREE], "max_tool_calls": 1})
    assert kinds(found["output"]) == ["mcp_list_tools", "mcp_call", "message"]
    assert served.tools.called == [("files__read", {"path": "a"})]


async def test_a_choice_names_a_servers_tool_or_all_of_them() -> None:
    choices = [
        ({"type": "mcp", "server_label": "files", "name": "read"},
         ToolChoice("required", "files__read", parallel=False)),
        ({"type": "mcp", "server_label": "files"},
         ToolChoice("required", allowed=("files__read", "files__drop", "files__broken"))),
        ({"type": "allowed_tools", "mode": "auto",
          "tools": [{"type": "mcp", "server_label": "files", "name": "read"}]},
         ToolChoice(allowed=("files__read",))),
    ]  # fmt: skip
    for choice, expected in choices:
        served = Served(ScriptedTurn("x"))
        await served.ask({"tools": [FREE], "tool_choice": choice})
        assert served.models.model.asked[0].tool_choice == expected
    served = Served(ScriptedTurn("x"))
    async with open_app(served.models, agent=served.agent) as app:
        choice = {"type": "mcp", "server_label": "files", "name": "write"}
        refused = await create(app, tools=[FREE], tool_choice=choice)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tool_choice")


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"server_label": "flies"}, "tools[0].server_label"),
        ({"server_label": "files", "server_url": "http://127.0.0.1/mcp"}, "tools[0].server_url"),
        ({"server_label": "mine", "server_url": f"{ALLOWED}/../x"}, "tools[0].server_url"),
        ({"server_label": "files", "server_url": ALLOWED}, "tools[0].server_label"),
        ({"server_label": "a b", "server_url": ALLOWED}, "tools[0].server_label"),
        ({"server_label": "mine", "server_url": ALLOWED, "headers": {"Host": "secret"}},
         "tools[0].headers"),
        ({"server_label": "mine", "server_url": ALLOWED, "headers": {"x": "secret\r\ny: z"}},
         "tools[0].headers"),
        ({"server_label": "mine", "server_url": ALLOWED, "authorization": "secret\n"},
         "tools[0].authorization"),
        ({"server_label": "files", "connector_id": "connector_gmail"}, "tools[0].connector_id"),
        ({"server_label": "files", "authorization": "secret"}, "tools[0].authorization"),
        ({"server_label": "files", "headers": {"x": "secret"}}, "tools[0].headers"),
    ],
)  # fmt: skip
async def test_only_servers_that_the_operator_allows_are_used(
    tool: dict[str, Any], param: str
) -> None:
    served = Served(ScriptedTurn("x"))
    urls = UrlServers((ALLOWED,))
    async with open_app(served.models, agent=served.agent, url_servers=urls) as app:
        refused = await create(app, tools=[{"type": "mcp", **tool}])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert "secret" not in refused.text
    assert served.models.model.asked == []


async def test_an_approval_without_its_server_is_refused() -> None:
    served = Served(ScriptedTurn(calls=(READ,)))
    async with open_app(served.models, agent=served.agent) as app:
        first = (await create(app, tools=[FILES])).json()
        answer = {
            "type": "mcp_approval_response",
            "approval_request_id": first["output"][-1]["id"],
            "approve": True,
        }
        body = {"previous_response_id": first["id"], "input": [answer]}
        refused = await create(app, **body)
        twice = await create(app, previous_response_id=first["id"], input=[answer, answer])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "input")


async def test_stateless_clients_send_back_every_item_that_they_got() -> None:
    served = Served(ScriptedTurn("Look.", calls=(READ,)), ScriptedTurn("Done."))
    async with open_app(served.models, agent=served.agent) as app:
        user = {"role": "user", "content": "hello"}
        first = (await create(app, tools=[FREE], store=False, input=[user])).json()
        again = [user, *first["output"], user]
        second = (await create(app, tools=[FREE], store=False, input=again)).json()
        counted = await send(
            app, "POST", "/v1/responses/input_tokens", {"input": again, "tools": [FREE]}
        )
    assert kinds(first["output"]) == ["mcp_list_tools", "message", "mcp_call", "message"]
    assert kinds(second["output"]) == ["message"]
    roles = [one.role for one in served.models.model.asked[-1].messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    assert counted.json()["input_tokens"] > 30
    assert json.dumps(second["tools"]) == json.dumps([FREE])


def as_scripted(message: dict[str, Any]) -> bytes | None:
    raise NotImplementedError


async def test_a_server_at_a_url_that_is_allowed_is_sent_what_the_request_has_for_it() -> None:
    remote = ScriptedHttpServer(as_scripted)
    call = ScriptedTurn(calls=(ToolCall("c1", "mine__echo", {}),))
    async with (
        remote.run() as url,
        open_app(
            scripted_models(play(call, ScriptedTurn("Done."))),
            [KEY],
            url_servers=UrlServers((url,)),
        ) as app,
    ):
        tool: dict[str, Any] = {"type": "mcp", "server_label": "mine", "server_url": url}
        tool |= {"authorization": "token", "headers": {"X-Team": "blue"}}
        tool |= {"require_approval": "never"}
        answered = (await create(app, KEY, tools=[tool])).json()
    listed, called, _ = answered["output"]
    assert [one["name"] for one in listed["tools"]] == ["echo"]
    assert (called["status"], called["output"]) == ("completed", "hello")
    redacted: dict[str, Any] = {"authorization": "<redacted>", "headers": {"X-Team": "<redacted>"}}
    assert answered["tools"] == [{**tool, **redacted}]
    heads = [head.lower() for head in remote.requests]
    assert all("authorization: bearer token\r\n" in head for head in heads)
    assert all("x-team: blue\r\n" in head for head in heads)
    assert all(KEY not in head for head in heads)


async def test_a_server_that_is_not_there_is_listed_as_failed_and_the_model_goes_on() -> None:
    remote = ScriptedHttpServer(lambda message: http_response(403))
    async with (
        remote.run() as url,
        open_app(scripted_models(play(ScriptedTurn("x"))), url_servers=UrlServers((url,))) as app,
    ):
        tool = {"type": "mcp", "server_label": "mine", "server_url": url}
        events = events_of(await create(app, tools=[tool], stream=True))
    assert events[3]["type"] == "response.mcp_list_tools.in_progress"
    assert events[4]["type"] == "response.mcp_list_tools.failed"
    listed, message = events[-1]["response"]["output"]
    assert listed["tools"] == []
    assert "answered with HTTP status 403" in listed["error"]
    assert "secret" not in listed["error"]
    assert message["content"][0]["text"] == "x"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_server_at_a_url_leads_nowhere_else(status: int) -> None:
    """Neither to another server of this machine nor, with what it was sent, to anyone."""
    victim = ScriptedHttpServer(as_scripted)
    async with victim.run() as elsewhere:
        moved = http_response(status, b"", f"location: {elsewhere}")
        remote = ScriptedHttpServer(lambda message: moved)
        models = scripted_models(play(ScriptedTurn("x")))
        async with (
            remote.run() as url,
            open_app(models, url_servers=UrlServers((url,))) as app,
        ):
            tool = {"type": "mcp", "server_label": "mine", "server_url": url}
            answered = await create(app, tools=[{**tool, "authorization": "secret"}])
    listed, _ = answered.json()["output"]
    assert listed["tools"] == []
    assert "not followed" in listed["error"]
    assert remote.requests
    assert victim.requests == []
