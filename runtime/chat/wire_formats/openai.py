"""Harmony, the format of gpt-oss: thoughts, calls and answer each in a channel of its own.

Source: OpenAI's harmony response format guide (developers.openai.com/cookbook/articles/
openai-harmony), chat template of openai/gpt-oss-20b.
"""

from __future__ import annotations

from runtime.chat.wire_formats.format import Reasoning, WireFormat

HARMONY = WireFormat(
    name="harmony",
    markers=("<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|constrain|>"),
    opens="<|channel|>commentary to=functions.",
    before_name="",
    before_arguments=" <|constrain|>json<|message|>",
    after_arguments="",
    # `<|call|>` ends the turn.
    between_calls=None,
    closes="",
    vocabulary=("<|start|>", "<|channel|>", "<|message|>", "<|call|>"),
    tools_before="# Tools\n\nYou may call these functions in the commentary channel:\n",
    tools_after="",
    result_open="The function returned:\n",
    result_close="",
    reasoning=Reasoning("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
    answer_opens="<|channel|>final<|message|>",
    lead_opens="<|channel|>commentary<|message|>",
    lead_closes="<|end|><|start|>assistant",
)
