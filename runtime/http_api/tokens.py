"""`/tokenize`, `/detokenize` and `/apply-template`, in vLLM's and llama.cpp's shapes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio.from_thread
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from runtime.errors import UnknownModelError
from runtime.http_api.body import read_body
from runtime.http_api.chat_request import read_messages, read_tools
from runtime.http_api.chat_shapes import AnyMessage
from runtime.http_api.event_stream import unless_gone
from runtime.http_api.faults import bad_request
from runtime.http_api.routes import Backend, Model
from runtime.http_api.text_shapes import DetokenizeRequest, TemplateRequest, TokenizeRequest
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import JsonObject

_CONVERSATION = ("tools", "chat_template_kwargs")
_OF_VLLM = ("add_special_tokens", "return_token_strs")
_OF_LLAMA_CPP = ("add_special", "parse_special", "with_pieces")

WRITTEN_AT_ONCE = 4096
"""Tokens of one piece of an answer: a long text's are tens of megabytes, and never there whole."""


class Tokens:
    """Answers the routes about tokens; a request that names no model means the first one."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def tokenize(self, request: Request) -> Response:
        asked = await read_body(request, TokenizeRequest)
        _check_form(asked)
        return await unless_gone(request, partial(self._tokenize, asked))

    async def _tokenize(self, asked: TokenizeRequest) -> Response:
        async with self._hold(asked.model) as model:
            token_ids = await anyio.to_thread.run_sync(_token_ids, asked, model)
        return StreamingResponse(_write(asked, model, token_ids), media_type="application/json")

    async def detokenize(self, request: Request) -> Response:
        asked = await read_body(request, DetokenizeRequest)
        async with self._hold(asked.model) as model:
            tokenizer = model.tokenizer
        if asked.tokens and max(asked.tokens) >= tokenizer.vocab_size:
            raise bad_request(f"the model's tokens are 0..{tokenizer.vocab_size - 1}", "tokens")
        text = await anyio.to_thread.run_sync(_spell, tokenizer, asked.tokens)
        return JSONResponse({"prompt": text, "content": text})

    async def apply_template(self, request: Request) -> Response:
        asked = await read_body(request, TemplateRequest)
        async with self._hold(asked.model) as model:
            token_ids = await anyio.to_thread.run_sync(_render, model, asked, asked.messages)
        return JSONResponse({"prompt": _spell(model.tokenizer, token_ids)})

    @asynccontextmanager
    async def _hold(self, name: str | None) -> AsyncIterator[Model]:
        if name is None:
            if not self._backend.model_names:
                raise UnknownModelError("no model is served")
            name = self._backend.model_names[0]
        async with self._backend.hold_model(name) as model:
            yield model


def _check_form(asked: TokenizeRequest) -> None:
    """Refuse a body of two forms, or of none.

    Raises:
        FaultError: names the field that does not belong there.
    """
    forms = {"prompt": _OF_VLLM, "messages": (*_OF_VLLM, *_CONVERSATION), "content": _OF_LLAMA_CPP}
    given = [name for name in forms if getattr(asked, name) is not None]
    if len(given) != 1:
        text = "wanted one of prompt, messages and content"
        raise bad_request(text, given[1] if given else "prompt")
    for name in {*_CONVERSATION, *_OF_VLLM, *_OF_LLAMA_CPP}.difference(forms[given[0]]):
        if getattr(asked, name) is not None:
            raise bad_request(f"it does not go with {given[0]}", name)


def _token_ids(asked: TokenizeRequest, model: Model) -> Sequence[int]:
    """Cut what is asked into tokens, in a thread; a long text no further once nobody waits."""
    if asked.messages is not None:
        return _render(model, asked, asked.messages)
    text, is_whole = asked.prompt, asked.add_special_tokens is not False
    if text is None:
        text, is_whole = asked.content or "", bool(asked.add_special)
    token_ids: list[int] = []
    parse_special = asked.parse_special is not False
    for part in model.tokenizer.encode_parts(text, parse_special=parse_special):
        anyio.from_thread.check_cancelled()
        token_ids += part
    return model.tokenizer.with_bos(token_ids) if is_whole else token_ids


def _write(asked: TokenizeRequest, model: Model, token_ids: Sequence[int]) -> Iterator[str]:
    """Write the answer piece by piece."""

    def write(show: Callable[[int], object]) -> Iterator[str]:
        for at in range(0, len(token_ids), WRITTEN_AT_ONCE):
            shown = [show(one) for one in token_ids[at : at + WRITTEN_AT_ONCE]]
            listed = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
            yield f"{',' if at else ''}{listed[1:-1]}"

    if asked.content is None:
        yield f'{{"count":{len(token_ids)},"max_model_len":{model.context_length},"token_strs":'
        if asked.return_token_strs:
            yield "["
            yield from write(partial(_text_of, model.tokenizer))
            yield "],"
        else:
            yield "null,"
    else:
        yield "{"
    yield '"tokens":['
    yield from write(partial(_piece, model.tokenizer) if asked.with_pieces else int)
    yield "]}"


def _piece(tokenizer: Tokenizer, token_id: int) -> JsonObject:
    """A token and its text; its bytes where they are no text by themselves."""
    spelled = tokenizer.spell(token_id)
    try:
        return {"id": token_id, "piece": spelled.decode()}
    except UnicodeDecodeError:
        return {"id": token_id, "piece": list(spelled)}


def _render(
    model: Model, asked: TokenizeRequest | TemplateRequest, messages: Sequence[AnyMessage]
) -> Sequence[int]:
    specs = read_tools(asked.tools or ())
    options = asked.chat_template_kwargs
    thinks = None if options is None else options.enable_thinking
    return model.render(read_messages(messages), specs, thinks=thinks)


def _text_of(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.spell(token_id).decode("utf-8", "replace")


def _spell(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    return b"".join(tokenizer.spell(one) for one in token_ids).decode("utf-8", "replace")
