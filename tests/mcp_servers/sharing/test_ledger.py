"""Tests of what is owed: answers, questions, and a session that is opened anew."""

from __future__ import annotations

import json
from typing import Any

from mcp_servers.message_rules import INVALID_REQUEST, Refusal
from mcp_servers.sharing.ledger import REPLAY_PREFIX, Ledger

WHY = "it was killed"


def message(**fields: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", **fields}


def line(**fields: Any) -> bytes:
    return json.dumps(message(**fields)).encode() + b"\n"


def say(ledger: Ledger, **fields: Any) -> Any:
    """Let the host say something; return what goes to the engine process."""
    taken = ledger.from_host(message(**fields), line(**fields))
    return json.loads(taken) if isinstance(taken, bytes) else taken


def answer(ledger: Ledger, **fields: Any) -> Any:
    """Let the engine process say something; return what goes to the host."""
    told = ledger.from_engine(line(**fields))
    return None if told is None else json.loads(told)


def lose(ledger: Ledger) -> list[Any]:
    return [json.loads(one) for one in ledger.lose(WHY)]


def test_each_request_without_an_answer_gets_an_error_once() -> None:
    ledger = Ledger()
    for request_id in (1, "a", 2, 3):
        say(ledger, id=request_id, method="tools/call")
    say(ledger, method="notifications/cancelled", params={"requestId": 3})
    assert answer(ledger, id=2, result={}) == message(id=2, result={})
    error = {"code": -32603, "message": WHY}
    assert lose(ledger) == [message(id=1, error=error), message(id="a", error=error)]
    assert lose(ledger) == []


def test_line_goes_on_as_it_came() -> None:
    ledger, spelled = Ledger(), b'{"jsonrpc": "2.0",  "id":1.0e0, "method":"x\\u00e9"}\n'
    assert ledger.from_host(message(id=1, method="xé"), spelled) == spelled
    assert ledger.from_engine(spelled.replace(b'"method"', b'"result"')) == spelled.replace(
        b'"method"', b'"result"'
    )
    assert ledger.from_engine(b"no JSON\n") == b"no JSON\n"


def test_second_request_under_an_id_in_use_is_refused() -> None:
    ledger = Ledger()
    say(ledger, id=7, method="tools/call")
    refused = say(ledger, id="7", method="tools/list")
    text = "a request with the id '7' is still being answered"
    assert refused == Refusal(INVALID_REQUEST, text, "7")
    answer(ledger, id=7, result={})
    assert say(ledger, id="7", method="tools/list") == message(id="7", method="tools/list")


def test_session_is_opened_anew_with_what_opened_it() -> None:
    ledger = Ledger()
    opening = {"protocolVersion": "2025-11-25"}
    say(ledger, id=0, method="initialize", params=opening)
    answer(ledger, id=0, result={})
    say(ledger, method="notifications/initialized")
    say(ledger, id=1, method="resources/subscribe", params={"uri": "run://1"})
    say(ledger, id=2, method="resources/subscribe", params={"uri": "run://2"})
    say(ledger, id=3, method="resources/unsubscribe", params={"uri": "run://1"})
    say(ledger, id=4, method="tools/list")
    assert len(lose(ledger)) == 4
    (first, first_id), (second, second_id), (third, third_id) = ledger.replay()
    assert (first_id, second_id, third_id) == (f"{REPLAY_PREFIX}1", None, f"{REPLAY_PREFIX}2")
    assert json.loads(first) == message(id=first_id, method="initialize", params=opening)
    assert json.loads(second) == message(method="notifications/initialized")
    assert json.loads(third)["params"] == {"uri": "run://2"}
    assert answer(ledger, id=first_id, result={}) is None
    assert lose(ledger) == []


def test_initialize_that_waits_is_asked_again_and_answered_late() -> None:
    ledger = Ledger()
    say(ledger, id=5, method="initialize", params={})
    assert ledger.is_opening
    assert lose(ledger) == []
    [(again, waited_for)] = ledger.replay()
    assert (json.loads(again)["id"], waited_for) == (5, None)
    assert answer(ledger, id=5, result={"a": 1}) == message(id=5, result={"a": 1})
    assert not ledger.is_opening


def test_modern_session_has_nothing_to_open() -> None:
    ledger = Ledger()
    say(ledger, id=1, method="server/discover")
    assert ledger.replay() == []


def test_answer_to_a_question_of_a_lost_process_never_reaches_the_next() -> None:
    ledger = Ledger()
    asked = answer(ledger, id=0, method="elicitation/create", params={"message": "delete?"})
    assert asked == message(id=1, method="elicitation/create", params={"message": "delete?"})
    assert lose(ledger) == [
        message(method="notifications/cancelled", params={"requestId": 1, "reason": WHY})
    ]
    other = answer(ledger, id=0, method="elicitation/create", params={"message": "format?"})
    assert say(ledger, id=1, result={"action": "accept"}) is None
    accepted = say(ledger, id=other["id"], result={"action": "decline"})
    assert accepted == message(id=0, result={"action": "decline"})
    assert say(ledger, id=other["id"], result={"action": "accept"}) is None


def test_question_that_is_withdrawn_is_withdrawn_under_the_hosts_number() -> None:
    ledger = Ledger()
    answer(ledger, id="q", method="roots/list")
    cancel = {"method": "notifications/cancelled", "params": {"requestId": "q"}}
    withdrawn = message(method="notifications/cancelled", params={"requestId": 1})
    assert [answer(ledger, **cancel), answer(ledger, **cancel)] == [withdrawn, None]
    assert say(ledger, id=1, result={"roots": []}) is None
