"""Errors of the engine and the models; the tree's root is drawn in `tools.errors`."""

from __future__ import annotations

from tools.errors import InvalidRequestError, UnavailableError, ZondaError


class PromptTooLongError(InvalidRequestError):
    """The prompt and what was asked for do not fit the context."""

    code = "prompt_too_long"


class UnsupportedSchemaError(InvalidRequestError):
    """A schema or grammar that cannot be turned into a constraint."""

    code = "unsupported_schema"


class UnknownModelError(InvalidRequestError):
    """No model of that name, and no file at that path."""

    code = "unknown_model"


class UnknownRunError(InvalidRequestError):
    """No run of that id, or its result expired."""

    code = "unknown_run"


class TemplateError(InvalidRequestError):
    """A chat template that cannot render these messages."""

    code = "template_error"


class ModelFileError(ZondaError):
    """A model file that is damaged or of a kind we cannot read."""

    code = "model_file_error"


class CapacityError(UnavailableError):
    """No free KV pages, or the queue is full."""

    code = "overloaded"


class MemoryShortError(UnavailableError):
    """A model that does not fit the memory which is free."""

    code = "not_enough_memory"


class BackendError(UnavailableError):
    """What computes is not there or cannot be started."""

    code = "backend_unavailable"


class DownloadError(UnavailableError):
    """A model could not be fetched."""

    code = "download_failed"


class GenerationError(UnavailableError):
    """A sequence ended with `finish_reason` "error"; the message says why."""

    code = "generation_failed"
