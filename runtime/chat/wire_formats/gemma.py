"""The JSON call of Gemma 3, which has no tokens for calls: the prompt defines the format.

Source: ai.google.dev/gemma/docs/capabilities/function-calling; reference/grammar.md section 4.1.
"""

from __future__ import annotations

from runtime.chat.wire_formats.format import WireFormat

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
