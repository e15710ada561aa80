"""Schemas made to hurt: each works, or is refused by name, within the limits."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import CapacityError, UnsupportedSchemaError
from runtime.grammar.compile import (
    GrammarCache,
    GrammarSource,
    compile_grammar,
    from_json_schema,
    grade_schema,
)
from runtime.grammar.ladder import SchemaSupport
from runtime.grammar.probe import ProbeLimits, Prober, Verdict, probe_grammar
from runtime.grammar.probe_worker import NICENESS
from runtime.grammar.suspicion import find_suspicion
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts, allowed_ids, vocabulary_of

TOKENIZER = tiny_tokenizer()
VOCABULARY = vocabulary_of(TOKENIZER)
NUM_STEPS = 40

STRICT = SchemaSupport("strict")
# Minutes of work that llguidance's own limits do not see, in 600 bytes.
INTERSECTED = {"allOf": [{"type": "string", "pattern": f".*a.{{{i}}}b"} for i in range(10, 26)]}
REFERENCES = {
    "$ref": "#/$defs/d0",
    "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(5000)} | {"d5000": {}},
}


@pytest.fixture(scope="module")
def patient_probe() -> Iterator[Prober]:
    """Probes however busy the machine is that runs the tests."""
    with closing(Prober(ProbeLimits(wall_s=50))) as prober:
        yield prober


def nested(levels: int, wrap: Callable[[Any], dict[str, Any]], inner: dict[str, Any]) -> Any:
    for _ in range(levels):
        inner = wrap(inner)
    return inner


def strings(num: int, **keywords: Any) -> dict[str, Any]:
    return {f"p{i}": {"type": "string", **keywords} for i in range(num)}


WORKS: dict[str, tuple[dict[str, Any], SchemaSupport]] = {
    "long string": ({"type": "string", "minLength": 10**6, "maxLength": 10**9}, STRICT),
    "many items": (
        {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
        STRICT,
    ),
    "at most many items": ({"type": "array", "maxItems": 10**7}, STRICT),
    "repeated alternatives": ({"type": "string", "pattern": "(a|aa){1,5000}"}, STRICT),
    "remembered past": ({"type": "string", "pattern": ".*a.{200}"}, STRICT),
    "catastrophic for backtracking": ({"type": "string", "pattern": "^(x+x+)+y$"}, STRICT),
    "options then as many": ({"type": "string", "pattern": "(a?){2000}a{2000}"}, STRICT),
    "nested repetitions": (
        {"type": "string", "pattern": "((((a{1,99}){1,99}){1,99}){1,99}){1,99}"},
        STRICT,
    ),
    "60 nested arrays": (nested(60, lambda x: {"type": "array", "items": x}, {}), STRICT),
    "25,000 choices": ({"enum": [f"v{i}" for i in range(25_000)]}, STRICT),
    "400 optional properties": ({"type": "object", "properties": strings(400)}, STRICT),
    "9,000 optional properties": (
        {"type": "object", "properties": {f"p{i}": {} for i in range(9_000)}},
        STRICT,
    ),
    "401 kinds of optional properties": (
        {"type": "object", "properties": {f"p{i}": {"const": i} for i in range(401)}},
        SchemaSupport("lenient", ("properties at $",)),
    ),
    "itself, a step further": ({"type": "array", "items": {"$ref": "#"}}, STRICT),
    "two that need each other": (
        {
            "$ref": "#/$defs/a",
            "$defs": {
                "a": {"allOf": [{"properties": {"n": {"$ref": "#/$defs/b"}}}]},
                "b": {"allOf": [{"properties": {"n": {"$ref": "#/$defs/a"}}}]},
            },
        },
        STRICT,
    ),
    "2**40 paths to one definition": (
        {
            "$ref": "#/$defs/d0",
            "$defs": {
                "d40": {},
                **{
                    f"d{i}": {"properties": {name: {"$ref": f"#/$defs/d{i + 1}"} for name in "xy"}}
                    for i in range(40)
                },
            },
        },
        STRICT,
    ),
    "14 dependent names": (
        {"type": "object", "dependentRequired": {f"a{i}": [f"b{i}"] for i in range(14)}},
        SchemaSupport("lenient", ("dependentRequired at $",)),
    ),
    "divisors without end": (
        {"allOf": [{"multipleOf": 100_000}, {"multipleOf": 99_999}]},
        SchemaSupport("lenient", ("multipleOf at $.allOf[0]", "multipleOf at $.allOf[1]")),
    ),
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "60,000 choices": ({"enum": list(range(60_000))}, "keyword 'enum' at $ has 60000 values"),
    "600 nested arrays": (
        nested(600, lambda x: {"type": "array", "items": x}, {}),
        "the schema nests deeper than 64 levels at $.items.items",
    ),
    "3,000 nested arrays": (
        nested(3_000, lambda x: {"type": "array", "items": x}, {}),
        "the schema nests deeper than 64 levels at $.items.items",
    ),
    "oneOf 14 deep": (
        nested(14, lambda x: {"oneOf": [x, {"type": "array", "items": x}]}, {"type": "string"}),
        "at most 262144 can be compiled",
    ),
    "product of alternatives": (
        {"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in range(3)]} for i in range(12)]},
        "keyword 'allOf' at $ is not supported: schema too large",
    ),
    "itself": ({"$ref": "#"}, "keyword '$ref' at $ is not supported: it leads back to itself"),
    "itself by way of others": (
        {
            "$ref": "#/$defs/a",
            "$defs": {
                "a": {"allOf": [{"$ref": "#/$defs/b"}]},
                "b": {"anyOf": [{}, {"$ref": "#/$defs/a"}]},
            },
        },
        "keyword '$ref' at $.$defs.a is not supported: it leads back to itself",
    ),
    "5,000 references in a row": (REFERENCES, "what 5001 references lead to nests up to 5001"),
    "half a character": ({"const": "\ud800"}, "not Unicode text"),
    "half a character as a name": ({"properties": {"\udfff": {}}}, "not Unicode text"),
    "half a character as a pattern": ({"pattern": "\ud800"}, "not Unicode text"),
    "300 alternatives to begin with": (
        {
            "anyOf": [
                {"type": "array", "items": {"maxLength": i}, "maxItems": i} for i in range(300)
            ]
        },
        "Current row has",
    ),
    "long pattern": ({"pattern": "a" * 5000}, "keyword 'pattern' at $ is longer than 4096 bytes"),
}


@pytest.mark.parametrize("name", WORKS)
def test_hostile_schema_works(name: str, patient_probe: Prober) -> None:
    schema, support = WORKS[name]
    assert grade_schema(schema, VOCABULARY, patient_probe) == support
    assert grade_schema(schema, VOCABULARY, patient_probe, closes=True) == support
    source = from_json_schema(schema, level=support.level)
    constraint = compile_grammar(source, VOCABULARY, patient_probe).constraint()
    for _ in range(NUM_STEPS):
        going_on = allowed_ids(constraint, VOCABULARY.vocab_size) - VOCABULARY.stop_ids
        assert constraint.state in ("open", "accepting")
        if not going_on:
            break
        assert constraint.advance([max(going_on)]) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_schema_is_refused_by_name(name: str, patient_probe: Prober) -> None:
    schema, message = REFUSED[name]
    with pytest.raises(UnsupportedSchemaError) as caught:
        grade_schema(schema, VOCABULARY, patient_probe)
    assert message in str(caught.value)


@pytest.mark.slow
def test_costly_schema_is_refused_after_one_probe_and_remembered(patient_probe: Prober) -> None:
    cache = GrammarCache(VOCABULARY, probe=patient_probe)
    wanted = (
        r"^the schema has 16 patterns and formats, one of them at \$\.allOf\[0\], several of which"
        r" may have to hold at once, and it takes more than (1 s of processor time|256 MB of"
        r" memory) to compile; make it smaller$"  # which comes first is the processor's to say
    )
    for schema in (INTERSECTED, json.loads(json.dumps(INTERSECTED))):
        with pytest.raises(UnsupportedSchemaError, match=wanted):
            cache.grade(schema)
        with pytest.raises(UnsupportedSchemaError, match="it takes more than"):
            cache.get_or_compile(from_json_schema(schema))


SUSPICIOUS: list[tuple[dict[str, Any], str]] = [
    ({"const": "x" * 40_000}, "the schema has 40012 bytes"),
    ({"items": {"enum": list(range(6000))}}, "keyword 'enum' at $.items has 6000 values"),
    ({"properties": strings(201)}, "keyword 'properties' at $ has 201 properties"),
    ({"anyOf": [{}] * 51}, "keyword 'anyOf' at $ has 51 branches"),
    (
        nested(5, lambda x: {"oneOf": [x]}, {}),
        "keyword 'oneOf' at $.oneOf[0].oneOf[0].oneOf[0].oneOf[0] is nested 5 times",
    ),
    ({"pattern": "a" * 257}, "keyword 'pattern' at $ has 257 bytes"),
    ({"pattern": "(a{40}){30}"}, "keyword 'pattern' at $ repeats up to 1200 times"),
    (
        {"patternProperties": {"a{1001}": {}}},
        "keyword 'patternProperties' at $ repeats up to 1001 times",
    ),
]


@pytest.mark.parametrize(("schema", "suspicion"), SUSPICIOUS)
def test_what_is_suspect_is_named(schema: dict[str, Any], suspicion: str) -> None:
    assert find_suspicion(schema) == suspicion


def test_ordinary_schema_is_not_suspect() -> None:
    leaf = {"type": "string", "format": "date", "pattern": "^[0-9-]{10}$"}
    schema = {"type": "object", "properties": {f"p{i}": leaf for i in range(40)}}
    assert find_suspicion(schema) is None


def grammar_of(schema: dict[str, Any]) -> str:
    return json.dumps({"grammars": [{"json_schema": schema}]})


def test_probe_says_what_the_compiler_says(patient_probe: Prober) -> None:
    assert patient_probe(grammar_of({"type": "null"})) == Verdict()
    unsatisfiable = patient_probe(grammar_of({"enum": []}))
    assert unsatisfiable == Verdict("Unsatisfiable schema: anyOf is empty")
    verdict = patient_probe(grammar_of(REFUSED["300 alternatives to begin with"][0]))
    assert verdict.problem is not None
    assert "Current row has" in verdict.problem


@pytest.mark.slow
def test_probe_is_killed_past_each_of_its_limits() -> None:
    slow, large = grammar_of(INTERSECTED), grammar_of({"enum": [f"v{i}" for i in range(25_000)]})
    cases = [
        (
            slow,
            ProbeLimits(memory_bytes=2**32, wall_s=50),
            "it takes more than 1 s of processor time to compile",
        ),
        (
            large,
            ProbeLimits(memory_bytes=4 * 2**20, wall_s=50),
            "it takes more than 4 MB of memory to compile",
        ),
        (
            grammar_of(REFERENCES),
            ProbeLimits(wall_s=50),
            "the compiler breaks down over it (exit status -11)",
        ),
    ]
    others = workers_of_ours()
    for grammar, limits, problem in cases:
        verdict = probe_grammar(grammar, limits)
        assert verdict == Verdict(f"{problem}; make it smaller", is_costly=True)
    assert probe_grammar(large, ProbeLimits(wall_s=50)) == Verdict()
    assert workers_of_ours() == others


def test_busy_machine_is_not_the_schemas_fault() -> None:
    busy = "the machine is too busy to try it out within 0.2 s; try again"
    others = workers_of_ours()
    verdict = probe_grammar(grammar_of(INTERSECTED), ProbeLimits(wall_s=0.1))
    assert verdict == Verdict(busy, is_transient=True)
    with pytest.raises(CapacityError, match=r"has 16 patterns .*, and the machine is too busy"):
        grade_schema(INTERSECTED, VOCABULARY, lambda _: verdict)
    assert workers_of_ours() == others


def test_suspect_is_graded_by_the_probe_alone() -> None:
    asked = []

    def probe(question: str) -> Verdict:
        asked.append(json.loads(question))
        return Verdict(support=SchemaSupport("coerced", ("oneOf at $",)))

    schema = {"enum": list(range(60_000))}
    assert grade_schema(schema, VOCABULARY, probe) == SchemaSupport("coerced", ("oneOf at $",))
    assert GrammarCache(VOCABULARY, probe=probe).grade(schema).level == "coerced"
    assert asked == [{"schema": schema, "closes": closes} for closes in (False, True)]


def test_what_was_tried_out_waits_for_nothing_that_is() -> None:
    is_asked, may_answer = threading.Event(), threading.Event()

    def probe(question: str) -> Verdict:
        if "slow" in question:
            is_asked.set()
            assert may_answer.wait(50)
        return Verdict(support=STRICT)

    cache = GrammarCache(VOCABULARY, probe=probe)
    known, slow = ({"enum": [f"{name}{i}" for i in range(6000)]} for name in ("known", "slow"))
    source = from_json_schema(known)
    cache.get_or_compile(source)
    with ThreadPoolExecutor() as threads:
        graded = threads.submit(cache.grade, slow)
        assert is_asked.wait(50)
        try:
            other = GrammarSource("lark", 'start: "x" @known', (("known", source),))
            threads.submit(cache.get_or_compile, other).result(timeout=20)
        finally:
            may_answer.set()
        assert graded.result() == STRICT


@pytest.mark.slow
def test_worker_answers_again_after_it_ended() -> None:
    others = workers_of_ours()
    with closing(Prober(ProbeLimits(wall_s=50))) as prober:
        assert prober(grammar_of({"type": "null"})) == Verdict()
        (worker,) = workers_of_ours() - others
        os.kill(worker, signal.SIGKILL)
        assert prober(grammar_of({"type": "null"})) == Verdict()
        assert worker not in workers_of_ours()
    prober = Prober(ProbeLimits(wall_s=50))
    assert prober(grammar_of({"type": "null"})) == Verdict()
    del prober
    assert workers_of_ours() == others


def test_machine_without_room_for_a_process_is_not_the_schemas_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(CapacityError, match=r"does not start: .*; try again"):
        GrammarCache(VOCABULARY).grade(INTERSECTED)


@pytest.mark.slow
def test_next_question_gets_no_answer_to_one_that_was_interrupted() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with closing(Prober(ProbeLimits(wall_s=50))) as prober:
            assert prober(grammar_of({"type": "null"})) == Verdict()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                prober(grammar_of(INTERSECTED))
            if prober._worker is not None:
                assert prober._worker.stdout is not None
                select.select([prober._worker.stdout], [], [])
            assert prober(grammar_of({"type": "null"})) == Verdict()
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_tried_out_yields_the_processor_and_ends_with_who_asked() -> None:
    limits = {"cpu_s": 60, "memory_bytes": 2**32}
    with start_worker() as worker:
        ask(worker, grammar_of(INTERSECTED), limits | {"wall_s": 0.5})
        policies = set()
        assert worker.stdout is not None
        while not select.select([worker.stdout], [], [], 0.01)[0]:
            policies |= {policy_of(child) for child in children_of(worker.pid)}
        assert json.loads(worker.stdout.readline()) == {"status": None, "output": ""}
        assert policies >= {os.SCHED_IDLE, os.SCHED_OTHER}
        assert os.getpriority(os.PRIO_PROCESS, worker.pid) == NICENESS

        ask(worker, grammar_of(INTERSECTED), limits | {"wall_s": 50})
        while not (children := children_of(worker.pid)):
            select.select([], [], [], 0.01)
    assert worker.returncode == 0
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_strict_map_form_still_ties_each_value_to_its_name(patient_probe: Prober) -> None:
    kinds = [{"type": "string"}, {"type": "integer"}]
    properties = {f"p{i}": kinds[i % 2] for i in range(500)}
    schema = {"type": "object", "properties": {"r": {}, **properties}, "required": ["r"]}
    source = from_json_schema({**schema, "additionalProperties": False})
    constraint = compile_grammar(source, VOCABULARY, patient_probe).constraint()
    accepted = ['{"r":1}', '{"r":1,"p1":2,"p0":"x"}']
    refused = ['{"p0":"x"}', '{"r":1,"p0":2}', '{"r":1,"q":2}', '{"r":1,"\\u0070":2}']
    assert [text for text in accepted if not accepts(constraint, TOKENIZER.encode(text))] == []
    assert [text for text in refused if accepts(constraint, TOKENIZER.encode(text))] == []


def start_worker() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "runtime.grammar.probe_worker"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def ask(worker: subprocess.Popen[bytes], question: str, limits: Mapping[str, float]) -> None:
    assert worker.stdin is not None
    head = json.dumps({"size": len(question), "limits": limits})
    worker.stdin.write(f"{head}\n{question}".encode())
    worker.stdin.flush()


def policy_of(process: int) -> int | None:
    try:
        return os.sched_getscheduler(process)
    except ProcessLookupError:
        return None


def children_of(process: int) -> set[int]:
    """Children of a process, zombies included."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = path.read_text(encoding="utf-8").rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(rest.split()[1]) == process:
            found.add(int(path.parent.name))
    return found


def workers_of_ours() -> set[int]:
    """Probes that are children of this process, which has no others, zombies included."""
    return children_of(os.getpid())
