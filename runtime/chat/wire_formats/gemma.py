"""The calls of Gemma: JSON that the prompt defines, then a notation of its own.

Source: ai.google.dev/gemma/docs/capabilities/function-calling and
ai.google.dev/gemma/docs/functiongemma; chat template of google/gemma-4-31B-it.
"""

from __future__ import annotations

from dataclasses import replace

from runtime.chat.wire_formats.format import NotationArguments, Reasoning, WireFormat

GEMMA3 = WireFormat(
    name="gemma3",
    markers=(),
    opens='{"name": "',
    before_name="",
    before_arguments='", "parameters": ',
    after_arguments="}",
    between_calls=None,
    closes="",
    vocabulary=("<start_of_turn>", "<end_of_turn>"),
    tools_before=(
        "You have access to functions. If you decide to invoke any of the function(s), you MUST"
        ' put it in the format of\n{"name": function name, "parameters": dictionary of argument'
        " name and its value}\n\nYou SHOULD NOT include any other text in the response if you"
        " call a function\n"
    ),
    tools_after="",
    result_open="```tool_output\n",
    result_close="\n```",
)

FUNCTION_GEMMA = replace(
    GEMMA3,
    name="functiongemma",
    markers=("<start_function_call>", "<end_function_call>", "<escape>"),
    opens="<start_function_call>",
    before_name="call:",
    before_arguments="",
    after_arguments="<end_function_call>",
    between_calls="<start_function_call>",
    vocabulary=("<start_function_call>", "<end_function_call>", "<escape>"),
    arguments=NotationArguments(quote="<escape>"),
    tools_before="You are a model that can do function calling with the following functions\n",
    result_open="",
    result_close="",
)

GEMMA4 = replace(
    FUNCTION_GEMMA,
    name="gemma4",
    markers=("<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"),
    opens="<|tool_call>",
    after_arguments="<tool_call|>",
    between_calls="<|tool_call>",
    vocabulary=("<|tool_call>", "<tool_call|>"),
    arguments=NotationArguments(quote='<|"|>'),
    reasoning=Reasoning("<|channel>thought\n", "<channel|>"),
)
