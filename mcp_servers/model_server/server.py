"""The model server as MCP: what a host is told about it, tools, resources and prompts."""

from __future__ import annotations

from typing import Any

from mcp.server import Server

from mcp_servers import toolset_server
from mcp_servers.announcements import Announcements
from mcp_servers.model_server.icons import ICONS
from mcp_servers.model_server.offers import list_resources
from mcp_servers.model_server.prompts import PromptFolder, own_prompts
from mcp_servers.model_server.run_calls import serve_runs
from mcp_servers.model_server.service import ModelService

INSTRUCTIONS = (
    "Local language models on the user's own machine: private, free, small. Use extract when you "
    "need JSON, choose to classify, generate for a text, generate_batch for many items: it is "
    "much quicker than one call each. Give each call one self-contained task with all that it "
    "needs: the model knows nothing of this conversation, and prompt and answer have to fit its "
    "context, which model://NAME tells. Text that must not leave this machine can be worked on "
    "here. A result with status 'running' is not an error: call run_result with its run_id, or "
    "read run://RUN_ID. runtime://status tells how busy the models are."
)


def build_server(service: ModelService, *, version: str) -> Server[Any]:
    """Make the MCP server, both protocol eras, of what `open_service` gives."""
    files = service.surface.prompts_folder
    folder = None if files is None else PromptFolder(files)
    server = toolset_server.build_server(
        "zonda",
        service,
        version=version,
        title="Zonda: local models",
        instructions=INSTRUCTIONS,
        icons=ICONS,
        resources=list_resources(service.report, service.vectors, service.describe_support),
        prompts=own_prompts() if folder is None else folder.list_prompts,
    )
    serve_runs(server, service, num_waiting=lambda: service.num_waiting)
    announce_changes(server.announcements, service, folder)
    return server


def announce_changes(
    announcements: Announcements, service: ModelService, folder: PromptFolder | None
) -> None:
    """Tell clients, for as long as the service runs, of what it offers and says otherwise."""

    async def follow_models() -> None:
        seen, tools = service.changes.count, service.specs
        while True:
            seen = await service.changes.wait(seen)
            if service.specs != tools:
                tools = service.specs
                await announcements.tools_changed()
            await announcements.resources_changed()

    async def follow_prompts() -> None:
        assert folder is not None
        await folder.watch(announcements.prompts_changed)

    service.start(follow_models)
    service.start(announcements.watch)
    if folder is not None:
        service.start(follow_prompts)
