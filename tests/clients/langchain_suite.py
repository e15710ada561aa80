"""LangChain's own tests of chat models against `zonda serve`, whose address is the argument.

Run by `tests.clients` in an environment that has them and none of our packages. The model is
Gemma-3-270M, which continues texts: no chat, no calls unless it must.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]  # no dependency of ours
from langchain_tests.integration_tests import (  # type: ignore[import-not-found]
    ChatModelIntegrationTests,
)

MODEL = "gemma3-270m"
LACKING = {
    "test_agent_loop": "a base model calls no tool where it may answer",
    "test_json_mode": "a base model does not choose the keys that the prompt asks for",
}
"""Tests that the model cannot pass, and why; where one passes, it no longer stands here."""


class TestChatCompletions(ChatModelIntegrationTests):  # type: ignore[misc]
    chat_model_class = ChatOpenAI
    supports_json_mode = True

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": MODEL,
            "base_url": os.environ["ZONDA_URL"],
            "api_key": "unused",
            "temperature": 0,
            "max_tokens": 50,
            "max_retries": 0,
            "stream_usage": True,
        }

    @pytest.fixture(autouse=True)
    def lacks(self, request: pytest.FixtureRequest) -> None:
        if reason := LACKING.get(request.function.__name__):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


class TestResponses(TestChatCompletions):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "use_responses_api": True}


def main(url: str) -> int:
    os.environ["ZONDA_URL"] = f"{url}/v1"
    options = ["-q", "-rxX", "--rootdir", os.curdir, "-c", os.devnull, "--noconftest"]
    options += ["-p", "no:cacheprovider", "--import-mode", "importlib"]
    for name in (
        "mode=auto",
        "default_test_loop_scope=session",
        "default_fixture_loop_scope=session",
    ):
        options += ["-o", f"asyncio_{name}"]
    return int(pytest.main([*options, __file__]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
