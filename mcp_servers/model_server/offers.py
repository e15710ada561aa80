"""The resources of the model server: addresses, and which report each of them shows."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Hashable, Iterable

from mcp_servers.model_server.embed import VECTORS_TYPE, VECTORS_URI, VectorStore
from mcp_servers.model_server.report import Report
from mcp_servers.model_server.resources import SUPPORT_URI
from mcp_servers.resource_handlers import Asked, Listed, Resource
from tools.spec import JsonObject

MODELS_URI = "model://"
MODEL_URI = "model://{name}"
RUN_URI = "run://{id}"
TRANSCRIPT_URI = "run://{id}/transcript"
STATUS_URI = "runtime://status"

VECTORS_TTL_MS = 3_600_000
"""They never change."""

MODEL_TTL_MS = 60_000
"""A model's facts change only when it is loaded or unloaded, which is announced; before all are
loaded, that is soon."""


def list_resources(
    report: Report, vectors: VectorStore, describe_support: Callable[[], Awaitable[JsonObject]]
) -> list[Resource]:
    """Build the resources over what a service reports."""

    async def read_status(asked: Asked) -> str:
        return _json(await report.describe_status())

    async def read_support(asked: Asked) -> str:
        return _json(await describe_support())

    async def read_vectors(asked: Asked) -> bytes:
        return vectors.read(asked.variables["id"], asked.principal)

    status = Resource(
        STATUS_URI,
        "status",
        "What goes on now: calls, batch and queue of each model, tokens a second, KV memory, "
        "tool servers with their state and the tokens of their definitions.",
        "application/json",
        read_status,
        title="Status",
        version=lambda asked: report.status_version(),
    )
    support = Resource(
        SUPPORT_URI,
        "grammar-support",
        "The output forms and JSON Schema keywords that the grammar enforces, and how "
        "strictly calls of each tool server's tools are decoded.",
        "application/json",
        read_support,
        title="Grammar support",
    )
    kept_vectors = Resource(
        VECTORS_URI,
        "vectors",
        "Vectors that embed gave you an address of: little-endian float32 numbers.",
        VECTORS_TYPE,
        read_vectors,
        title="Vectors",
        ttl_ms=VECTORS_TTL_MS,
        version=lambda asked: len(vectors.read(asked.variables["id"], asked.principal)),
    )
    return [*_of_models(report), status, support, *_of_runs(report), kept_vectors]


def _of_models(report: Report) -> list[Resource]:
    def ttl_ms(asked: Asked) -> int:
        return MODEL_TTL_MS if report.are_models_loaded else 0

    def version(asked: Asked) -> Hashable:
        name = report.describe_model(asked.variables["name"])["name"]
        return name, report.models_version()

    def listed(principal: str) -> Iterable[Listed]:
        return [
            Listed({"name": name}, f"Facts of the model {name}.") for name in report.model_names
        ]

    return [
        Resource(
            MODELS_URI,
            "models",
            "The models that calls may name, and which of them are loaded.",
            "application/json",
            _shows(lambda asked: report.describe_models()),
            title="Models",
            ttl_ms=ttl_ms,
            version=lambda asked: report.models_version(),
        ),
        Resource(
            MODEL_URI,
            "model",
            "A model's architecture, context length, quantisation, memory and chat template.",
            "application/json",
            _shows(lambda asked: report.describe_model(asked.variables["name"])),
            title="Model",
            ttl_ms=ttl_ms,
            version=version,
            values={"name": lambda principal: report.model_names},
            listed=listed,
        ),
    ]


def _of_runs(report: Report) -> list[Resource]:
    def version(asked: Asked) -> Hashable:
        return report.run_version(asked.variables["id"], asked.principal)

    def ids(principal: str) -> Iterable[str]:
        return [run.id for run in report.runs_of(principal)]

    def listed(principal: str) -> Iterable[Listed]:
        return [
            Listed({"id": run.id}, f"A call of {run.title or 'a tool'}: {run.status}.")
            for run in report.runs_of(principal)
        ]

    return [
        Resource(
            RUN_URI,
            "run",
            "A call of yours that goes on or has ended: its progress, and its result.",
            "application/json",
            _shows(lambda asked: report.describe_run(asked.variables["id"], asked.principal)),
            title="Run",
            version=version,
            values={"id": ids},
            listed=listed,
        ),
        Resource(
            TRANSCRIPT_URI,
            "transcript",
            "What the model was told, wrote and called in a run of yours, as it grows.",
            "application/json",
            _shows(
                lambda asked: report.describe_transcript(asked.variables["id"], asked.principal)
            ),
            title="Transcript of a run",
            version=version,
            values={"id": ids},
        ),
    ]


def _shows(describe: Callable[[Asked], JsonObject]) -> Callable[[Asked], Awaitable[str]]:
    async def read(asked: Asked) -> str:
        return _json(describe(asked))

    return read


def _json(value: JsonObject) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
