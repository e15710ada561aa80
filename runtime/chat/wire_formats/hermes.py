"""The format of Hermes 2 and 3, Qwen 2.5 and 3, and of models that know none.

Source: chat template of Qwen/Qwen2.5-7B-Instruct; reference/grammar.md section 4.1.
"""

from __future__ import annotations

from runtime.chat.wire_formats.format import WireFormat

HERMES = WireFormat(
    name="hermes",
    markers=("<tool_call>", "</tool_call>"),
    opens="<tool_call>",
    before_name='\n{"name": "',
    before_arguments='", "arguments": ',
    after_arguments="}\n</tool_call>",
    between_calls="\n<tool_call>",
    closes="",
    vocabulary=(),
    tools_before=(
        "# Tools\n\n"
        "You may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n"
        "<tools>"
    ),
    tools_after=(
        "\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within"
        " <tool_call></tool_call> XML tags:\n"
        "<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n'
        "</tool_call>"
    ),
    result_open="<tool_response>\n",
    result_close="\n</tool_response>",
)
