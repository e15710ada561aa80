"""The formats between `<tool_call>` tags: Hermes, Qwen and GLM; the first is everybody's.

Source: chat templates of Qwen/Qwen2.5-7B-Instruct, Qwen/Qwen3-Coder-30B-A3B-Instruct,
zai-org/GLM-4.5 and GLM-4.6; the call format of GLM-4.7's model card.
"""

from __future__ import annotations

from dataclasses import replace

from runtime.chat.wire_formats.format import FieldArguments, WireFormat

_LISTED = (
    "# Tools\n\n"
    "You may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n"
    "<tools>"
)

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
    tools_before=_LISTED,
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

QWEN_CODER = replace(
    HERMES,
    name="qwen-coder",
    before_name="\n<function=",
    before_arguments=">\n",
    after_arguments="</function>\n</tool_call>",
    arguments=FieldArguments("<parameter=", ">\n", "\n</parameter>\n"),
    tools_after=(
        "\n</tools>\n\n"
        "To call a function, reply with nothing but\n"
        "<tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n"
        "</tool_call>"
    ),
)

_GLM_MARKERS = (
    *("<tool_call>", "</tool_call>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)

GLM45 = replace(
    HERMES,
    name="glm-4.5",
    markers=_GLM_MARKERS,
    before_name="",
    before_arguments="\n",
    after_arguments="</tool_call>",
    arguments=FieldArguments("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
    tools_after=(
        "\n</tools>\n\n"
        "To call a function, write\n"
        "<tool_call>NAME\n<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>"
    ),
)

GLM47 = replace(
    GLM45,
    name="glm-4.7",
    before_arguments="",
    between_calls="<tool_call>",
    arguments=FieldArguments("<arg_key>", "</arg_key><arg_value>", "</arg_value>"),
    vocabulary=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    tools_after=(
        "\n</tools>\n\n"
        "To call a function, write\n"
        "<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>"
    ),
)
