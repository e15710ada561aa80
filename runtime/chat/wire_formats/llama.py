"""The JSON call of Llama 3.1, 3.2 and 3.3; one a turn, as the models were trained.

Source: chat template of meta-llama/Llama-3.1-8B-Instruct.
"""

from __future__ import annotations

from runtime.chat.wire_formats.format import WireFormat

LLAMA3 = WireFormat(
    name="llama3",
    markers=(),
    opens='{"name": "',
    before_name="",
    before_arguments='", "parameters": ',
    after_arguments="}",
    between_calls=None,
    closes="",
    vocabulary=("<|start_header_id|>", "<|eot_id|>"),
    tools_before=(
        "Given the following functions, please respond with a JSON for a function call with its"
        " proper arguments that best answers the given prompt.\n"
    ),
    tools_after=(
        '\n\nRespond in the format {"name": function name, "parameters": dictionary of argument'
        " name and its value}. Do not use variables."
    ),
    result_open="The function returned:\n",
    result_close="",
)
