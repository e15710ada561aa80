"""The formats with a section of calls: DeepSeek and Kimi; and Phi-4-mini's list.

Source: chat templates of deepseek-ai/DeepSeek-R1, DeepSeek-V3 and DeepSeek-V3.1,
moonshotai/Kimi-K2-Instruct, microsoft/Phi-4-mini-instruct; the tool calling guide of Kimi K2.
"""

from __future__ import annotations

from dataclasses import replace

from runtime.chat.wire_formats.format import CALL_INDEX, WireFormat

_LISTED = "## Tools\nYou have access to the following tools:\n"

DEEPSEEK_R1 = WireFormat(
    name="deepseek-r1",
    markers=(
        *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        *("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
    ),
    opens="<｜tool▁calls▁begin｜>",
    before_name="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    before_arguments="\n```json\n",
    after_arguments="\n```<｜tool▁call▁end｜>",
    between_calls="\n",
    closes="<｜tool▁calls▁end｜>",
    vocabulary=("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>"),
    tools_before=_LISTED,
    tools_after=(
        "\n\nTo call tools, write\n"
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n"
        "```json\nARGUMENTS\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    result_open="<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>",
    result_close="<｜tool▁output▁end｜><｜tool▁outputs▁end｜>",
)

DEEPSEEK_V31 = replace(
    DEEPSEEK_R1,
    name="deepseek-v3.1",
    before_name="<｜tool▁call▁begin｜>",
    before_arguments="<｜tool▁sep｜>",
    after_arguments="<｜tool▁call▁end｜>",
    between_calls="",
    tools_after=(
        "\n\nTo call tools, write\n"
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGUMENTS<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>"
    ),
)

KIMI_K2 = replace(
    DEEPSEEK_R1,
    name="kimi-k2",
    markers=(
        *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        *("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    ),
    opens="<|tool_calls_section_begin|>",
    before_name="<|tool_call_begin|>functions.",
    before_arguments=f":{CALL_INDEX}<|tool_call_argument_begin|>",
    after_arguments="<|tool_call_end|>",
    between_calls="",
    closes="<|tool_calls_section_end|>",
    vocabulary=("<|tool_calls_section_begin|>", "<|tool_call_argument_begin|>"),
    tools_after=(
        "\n\nTo call tools, write\n<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:"
        "NUMBER<|tool_call_argument_begin|>ARGUMENTS<|tool_call_end|><|tool_calls_section_end|>"
    ),
    result_open="The function returned:\n",
    result_close="",
)

PHI4 = replace(
    DEEPSEEK_R1,
    name="phi-4",
    markers=("<|tool_call|>", "<|/tool_call|>"),
    opens="<|tool_call|>[",
    before_name='{"name": "',
    before_arguments='", "arguments": ',
    after_arguments="}",
    between_calls=", ",
    closes="]<|/tool_call|>",
    vocabulary=("<|tool_call|>", "<|/tool_call|>"),
    tools_after=(
        "\n\nTo call tools, write\n"
        '<|tool_call|>[{"name": NAME, "arguments": ARGUMENTS}]<|/tool_call|>'
    ),
    result_open="The function returned:\n",
    result_close="",
)
