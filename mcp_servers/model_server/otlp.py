"""Sends spans to a collector, where one is wanted; needs the extra `zonda[traces]`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from tools.errors import ConfigurationError

logger = logging.getLogger(__name__)


@contextmanager
def open_traces(endpoint: str) -> Iterator[None]:
    """Send the process's spans to an OTLP/HTTP collector at this URL; "" sends none.

    They go in the background and are dropped where the collector is away or slow. The
    variables `OTEL_EXPORTER_OTLP_HEADERS` and the like hold as everywhere.

    Raises:
        ConfigurationError: it is no URL, or the extra is not installed.
    """
    if not endpoint:
        yield
        return
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigurationError(f"otlp_endpoint must be an http(s) URL, not {endpoint!r}")
    try:
        http = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        sdk = import_module("opentelemetry.sdk.trace")
        export = import_module("opentelemetry.sdk.trace.export")
        resources = import_module("opentelemetry.sdk.resources")
    except ImportError as exc:
        raise ConfigurationError(
            f"traces need the extra: `pip install 'zonda[traces]'` ({exc})"
        ) from exc
    from opentelemetry import trace

    resource = resources.Resource.create({"service.name": "zonda"})
    provider = sdk.TracerProvider(resource=resource)
    exporter = http.OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    logger.info("sending spans to %s", endpoint)
    try:
        yield
    finally:
        provider.shutdown()
