"""Tests of what is kept of a run for readers."""

from runtime.agent.transcript import MAX_CHARS, Transcript


def test_text_grows_in_its_part_and_calls_stand_between() -> None:
    transcript = Transcript()
    transcript.add("user", "what time is it?")
    transcript.extend("let ")
    transcript.extend("me look")
    before = transcript.version
    transcript.add("assistant", call={"name": "now", "arguments": {}})
    transcript.add("tool", "noon")
    transcript.extend("noon")
    assert transcript.version > before
    assert transcript.to_json() == [
        {"role": "user", "text": "what time is it?"},
        {"role": "assistant", "text": "let me look"},
        {"role": "assistant", "call": {"name": "now", "arguments": {}}},
        {"role": "tool", "text": "noon"},
        {"role": "assistant", "text": "noon"},
    ]


def test_what_exceeds_the_limit_is_left_out_and_told() -> None:
    transcript = Transcript()
    transcript.add("user", "x" * (MAX_CHARS - 1))
    transcript.extend("yz")
    transcript.extend("more")
    assert transcript.is_cut
    assert transcript.to_json()[1] == {"role": "assistant", "text": "y"}
