"""Plain completions, embeddings and tokens over HTTP with a scripted model."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import httpx2
import numpy as np
import pytest

from runtime.chat.messages import OutputSchema
from runtime.grammar.compile import from_choices
from runtime.request import GenerateRequest
from tests.helpers.model_service import ScriptedModels, ServedModel, scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.scripted_engine import say
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.web_service import open_app
from tests.http_api.test_chat import chunks_of

pytestmark = pytest.mark.anyio

TOKENIZER = tiny_tokenizer()
PROMPT = {"model": "scripted", "prompt": "time"}


def models_of(*writes: str) -> ScriptedModels:
    models = scripted_models(play(ScriptedTurn("x")))
    models.model.writes = say(*writes)
    return models


async def post(path: str, models: ScriptedModels | None = None, **fields: Any) -> httpx2.Response:
    async with open_app(models or models_of("and time")) as app:
        headers = {"host": "127.0.0.1", "content-type": "application/json"}
        return await app.request("POST", path, headers, json.dumps(fields).encode())


async def complete(*writes: str, **fields: Any) -> httpx2.Response:
    models = models_of(*(writes or ("and time",)))
    return await post("/v1/completions", models, **{**PROMPT, **fields})


async def test_a_completion_has_every_field_that_clients_read() -> None:
    body = (await complete()).json()
    assert body.pop("id").startswith("cmpl-")
    assert body.pop("created") > 0
    num_prompt, num_written = len(TOKENIZER.encode("time")), len(TOKENIZER.encode("and time")) + 1
    assert body == {
        "object": "text_completion",
        "model": "scripted",
        "choices": [{"index": 0, "text": "and time", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_written,
            "total_tokens": num_prompt + num_written,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        },
    }


async def test_prompts_are_texts_or_tokens_one_or_several() -> None:
    tokens = TOKENIZER.encode("time")
    for prompt, num_choices in (("time", 1), (tokens, 1), (["a", "b"], 2), ([tokens, [5]], 2)):
        body = (await complete(prompt=prompt, n=2, max_tokens=0, echo=True)).json()
        assert [one["index"] for one in body["choices"]] == list(range(2 * num_choices))
        assert body["choices"][0]["text"] == ("a" if prompt == ["a", "b"] else "time")
        assert {one["finish_reason"] for one in body["choices"]} == {"length"}


async def test_an_echo_has_its_log_probabilities_but_for_the_first_token() -> None:
    body = (await complete("and", echo=True, logprobs=2)).json()
    (choice,) = body["choices"]
    tokens = [*TOKENIZER.encode("time and"[:4]), *TOKENIZER.encode("and")]
    texts = [TOKENIZER.decode([one]) for one in tokens]
    assert choice["text"] == "timeand" == "".join(texts)
    offsets = np.cumsum([0, *map(len, texts)])[:-1].tolist()
    assert choice["logprobs"] == {
        "tokens": texts,
        "token_logprobs": [None, *[-1.0] * (len(texts) - 1)],
        "top_logprobs": [None, *({text: -1.0} for text in texts[1:])],
        "text_offset": offsets,
    }


@pytest.mark.parametrize("text", ["xyzTU", "日本 time"])
async def test_a_stream_joins_to_the_whole(text: str) -> None:
    fields = {"echo": True, "logprobs": 1, "stop": ["TU"]}
    (whole,) = (await complete(text, **fields)).json()["choices"]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = chunks_of(await complete(text, **options, **fields))
    pieces = [chunk["choices"][0] for chunk in chunks]
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    assert [piece["finish_reason"] for piece in pieces] == [*[None] * (len(pieces) - 1), "stop"]
    for name, values in whole["logprobs"].items():
        joined = [one for piece in pieces if piece["logprobs"] for one in piece["logprobs"][name]]
        assert joined == values
    assert (last["choices"], {chunk["usage"] for chunk in chunks}) == ([], {None})
    assert last["usage"]["completion_tokens"] > 0


async def test_what_a_text_is_constrained_to_reaches_the_model() -> None:
    models = models_of("x")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema}}
    await post("/v1/completions", models, **PROMPT, response_format=form)
    await post("/v1/completions", models, **PROMPT, guided_choice=["a", "b"])
    assert models.model.outputs == [OutputSchema(schema), from_choices(["a", "b"])]
    response = await post(
        "/v1/completions", models, **PROMPT, guided_regex="a", grammar='start: "b"'
    )
    assert response.json()["error"]["param"] == "grammar"


async def test_the_best_of_several_are_answered_and_all_are_paid_for() -> None:
    models = models_of("a", "b", "c")
    best = TOKENIZER.encode("b")[0]
    model = models.model
    plain = ServedModel.complete

    def complete_scored(request: Any, output: Any = None) -> Any:
        assert request.sampling.top_logprobs == 0
        return _scored(plain(model, request), best)

    model.complete = complete_scored  # type: ignore[method-assign]  # likelier than the others
    body = (await post("/v1/completions", models, **PROMPT, best_of=3)).json()
    assert [one["text"] for one in body["choices"]] == ["b"]
    assert body["choices"][0]["logprobs"] is None
    assert body["usage"]["completion_tokens"] == 6


async def _scored(chunks: Any, best: int) -> Any:
    async for chunk in chunks:
        scores = [
            replace(one, logprob=0.0) if one.token_id == best else one for one in chunk.scores
        ]
        yield replace(chunk, scores=tuple(scores))


async def test_a_gap_is_filled_by_a_model_that_has_the_tokens_for_it() -> None:
    tokenizer = tiny_tokenizer("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    models = models_of("b")
    models.model.tokenizer = tokenizer
    asked: list[str] = []

    def writes(request: GenerateRequest) -> str:
        asked.append("".join(tokenizer.spell(one).decode() for one in request.token_ids))
        return "b"

    models.model.writes = writes
    fields = {**PROMPT, "prompt": "a<fim_middle>", "suffix": "c", "echo": True, "logprobs": 0}
    (choice,) = (await post("/v1/completions", models, **fields)).json()["choices"]
    assert asked == ["<fim_prefix>a<fim_middle><fim_suffix>c<fim_middle>"]
    assert choice["text"] == "a<fim_middle>b"
    assert choice["logprobs"]["tokens"] == ["b"]
    assert choice["logprobs"]["text_offset"] == [len("a<fim_middle>")]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),  # the model has no tokens for that
        ({"suffix": "end", "prompt": ["a"]}, "suffix"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", ""]}, "prompt[1]"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": "a" * 9000}, "prompt"),
        ({"prompt": ["a"] * 200, "n": 2}, "prompt"),
        ({"logprobs": 6}, "logprobs"),
        ({"ignore_eos": True, "guided_choice": ["a", "b"]}, "ignore_eos"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"temprature": 1}, "temprature"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_its_name(
    fields: dict[str, Any], param: str
) -> None:
    response = await complete(**fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def embed(**fields: Any) -> httpx2.Response:
    return await post("/v1/embeddings", **{"model": "scripted", "input": "time", **fields})


async def test_embeddings_come_as_numbers_or_packed_and_may_be_cut() -> None:
    body = (await embed(input=["time", "and"])).json()
    assert body["object"] == "list"
    assert [one["index"] for one in body["data"]] == [0, 1]
    vectors = np.array([one["embedding"] for one in body["data"]])
    assert vectors.shape == (2, 4)
    packed = (await embed(input=["time", "and"], encoding_format="base64")).json()
    unpacked = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in packed["data"]]
    assert np.allclose(np.stack(unpacked), vectors)
    tokens = (await embed(input=[TOKENIZER.encode("time"), TOKENIZER.encode("and")])).json()
    assert tokens == body
    (cut,) = (await embed(dimensions=1)).json()["data"]
    assert cut["embedding"] == [1.0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": "a" * 9000}, "input"),
        ({"input": [10**6]}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 5}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
    ],
)
async def test_embeddings_that_cannot_be_are_refused(fields: dict[str, Any], param: str) -> None:
    response = await embed(**fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_texts_are_cut_into_tokens_and_back_in_both_shapes() -> None:
    tokens = TOKENIZER.encode("and é")
    body = (await post("/tokenize", prompt="and é", return_token_strs=True)).json()
    assert (body["tokens"], body["count"], body["max_model_len"]) == (tokens, len(tokens), 8192)
    assert len(body["token_strs"]) == len(tokens)
    body = (await post("/tokenize", content="and é")).json()
    assert body == {"tokens": tokens}
    pieces = (await post("/tokenize", content="and é", with_pieces=True)).json()["tokens"]
    assert [piece["id"] for piece in pieces] == tokens
    joined = b"".join(
        piece["piece"].encode() if isinstance(piece["piece"], str) else bytes(piece["piece"])
        for piece in pieces
    )
    assert joined.decode() == "and é"
    body = (await post("/detokenize", tokens=tokens)).json()
    assert body == {"prompt": "and é", "content": "and é"}
    messages = [{"role": "user", "content": "hi"}]
    rendered = (await post("/apply-template", messages=messages)).json()
    assert rendered == {"prompt": "user: hi\n"}
    options = {"enable_thinking": False}
    rendered = (
        await post("/apply-template", messages=messages, chat_template_kwargs=options)
    ).json()
    assert rendered == {"prompt": "user: hi\nthinks: False\n"}
    body = (await post("/tokenize", messages=messages, model="scripted")).json()
    assert body["tokens"] == TOKENIZER.encode("user: hi\n")


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "content": "a"}, "content"),
        ("/tokenize", {"prompt": "a", "with_pieces": True}, "with_pieces"),
        ("/tokenize", {"prompt": "a", "model": "other"}, "model"),
        ("/tokenize", {"prompt": "a", "tools": []}, "tools"),
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/apply-template", {"messages": []}, "messages"),
    ],
)
async def test_tokens_that_cannot_be_are_refused(
    path: str, fields: dict[str, Any], param: str
) -> None:
    response = await post(path, **fields)
    assert response.status_code == (404 if param == "model" else 400)
    assert response.json()["error"]["param"] == param
