"""The formats of Mistral: a JSON array up to version 7, name and arguments from 11 on.

Source: mistral-common's instruct tokenizers v3, v11 and v13; chat templates of
mistralai/Mistral-7B-Instruct-v0.3, Mistral-Nemo-Instruct-2407 and
Mistral-Small-3.2-24B-Instruct-2506.
"""

from __future__ import annotations

from dataclasses import replace

from runtime.chat.wire_formats.format import CALL_ID, WireFormat

MISTRAL_V3 = WireFormat(
    name="mistral-v3",
    markers=("[TOOL_CALLS]",),
    opens="[TOOL_CALLS] [",
    before_name='{"name": "',
    before_arguments='", "arguments": ',
    after_arguments=f', "id": "{CALL_ID}"}}',
    between_calls=", ",
    closes="]",
    vocabulary=("[TOOL_CALLS]",),
    tools_before="You may call these functions:\n",
    tools_after=(
        "\n\nTo call functions, respond only with\n"
        '[TOOL_CALLS] [{"name": <function-name>, "arguments": <args-json-object>,'
        ' "id": <nine letters or digits>}]'
    ),
    result_open="The function returned:\n",
    result_close="",
)

# Tekken vocabularies (Nemo, Small 2501) put no blank after the marker.
MISTRAL_V3_TEKKEN = replace(MISTRAL_V3, name="mistral-v3-tekken", opens="[TOOL_CALLS][")

MISTRAL_V13 = replace(
    MISTRAL_V3,
    name="mistral-v13",
    markers=("[TOOL_CALLS]", "[ARGS]"),
    opens="[TOOL_CALLS]",
    before_name="",
    before_arguments="[ARGS]",
    after_arguments="",
    between_calls="[TOOL_CALLS]",
    closes="",
    vocabulary=("[TOOL_CALLS]", "[ARGS]"),
    tools_after=(
        "\n\nTo call functions, respond only with\n"
        "[TOOL_CALLS]<function-name>[ARGS]<args-json-object>"
    ),
)

MISTRAL_V11 = replace(
    MISTRAL_V13,
    name="mistral-v11",
    markers=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
    before_arguments=f"[CALL_ID]{CALL_ID}[ARGS]",
    vocabulary=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
    tools_after=(
        "\n\nTo call functions, respond only with\n"
        "[TOOL_CALLS]<function-name>[CALL_ID]<nine letters or digits>[ARGS]<args-json-object>"
    ),
)
