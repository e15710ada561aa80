"""The bundled tool server: offline and deterministic."""
