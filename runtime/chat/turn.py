"""One turn as it is decoded: its tokens read by a parser, and mended where a schema refuses it.

A grammar may be unable to carry all of a schema. What it let pass is checked when a call or an
answer is complete; if it is refused, the turn goes on from the value at fault, with what was
written there excluded. The pages of what is kept are found in the prefix cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from runtime.chat.cursor import TurnCursor
from runtime.chat.grammars import TurnGrammar
from runtime.chat.limited import LimitedConstraint, WaysOut
from runtime.chat.messages import TextDelta, ToolCall
from runtime.chat.parser import (
    MarkedText,
    ParserEvent,
    RejectedCall,
    TurnParser,
    load_arguments,
    locate_text,
)
from runtime.chat.prompt import Prompt
from runtime.chat.tempered import TemperedConstraint
from runtime.chat.wire_formats.format import BoundFormat
from runtime.chat.wire_formats.schemas import Path
from runtime.grammar.constraint import Constraint
from runtime.request import TokenChunk, TokenScore
from runtime.tokenizer.decoder import StopStrings
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import JsonObject, ToolSpec
from tools.validation import Problem, find_problem

MAX_REPAIRS = 2


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """What a turn is decoded with and read by.

    Attributes:
        prompt: the rendered conversation.
        grammar: what may be said; None for anything.
        tools: what may be called.
        schema: of the answer, where the grammar does not carry all of it.
        has_free_text: whether text may stand before a call.
        stop: strings that end the visible text.
        max_tokens: most tokens of the turn.
        predicted_ids: what is likely said.
        temperatures: of single arguments, by the tools' names.
        limits: tokens of single arguments, by the tools' names.
    """

    prompt: Prompt
    grammar: TurnGrammar | None
    tools: Sequence[ToolSpec]
    schema: JsonObject | None
    has_free_text: bool
    stop: tuple[str, ...]
    max_tokens: int
    predicted_ids: tuple[int, ...]
    temperatures: Mapping[str, Mapping[Path, float]]
    limits: Mapping[str, Mapping[Path, int]]

    def parser(
        self,
        bound: BoundFormat,
        *,
        held: Collection[str] = (),
        check: Callable[[ToolSpec, JsonObject], Problem | None] = lambda tool, arguments: None,
    ) -> TurnParser:
        """Begin to read the turn."""
        return TurnParser(
            bound,
            self.tools,
            has_free_text=self.has_free_text,
            thinking=self.prompt.thinking,
            held=held,
            check=check,
        )


@dataclass(frozen=True, slots=True)
class Restart:
    """Where a turn begins, or goes on after something was refused.

    Attributes:
        kept: the tokens that stand.
        banned: texts that must not come next, as bytes.
        first_tokens: tokens that must not come next.
    """

    kept: tuple[int, ...] = ()
    banned: tuple[bytes, ...] = ()
    first_tokens: frozenset[int] = field(default_factory=frozenset)

    def constraint(
        self, plan: TurnPlan, bound: BoundFormat, tokenizer: Tokenizer
    ) -> Constraint | None:
        """What the turn may say from here on; None for anything."""
        if plan.grammar is None:
            return None
        constraint: Constraint = plan.grammar.constraint(
            plan.max_tokens, self.kept, self.banned, self.first_tokens
        )

        def begin() -> tuple[TurnParser, MarkedText]:
            text = MarkedText(bound.ids, tokenizer)
            parser = plan.parser(bound)
            parser.push(text.push(self.kept))
            return parser, text

        if any(plan.limits.values()):
            ways_out = WaysOut(bound, plan.grammar.compiled.vocabulary)
            constraint = LimitedConstraint(constraint, plan.limits, TurnCursor(begin), ways_out)
        if any(plan.temperatures.values()):
            constraint = TemperedConstraint(constraint, plan.temperatures, TurnCursor(begin))
        return constraint


class Attempt:
    """A turn's tokens and what they say, from its beginning or from where it was mended.

    Attributes:
        parser: what was said.
        token_ids: the turn's tokens.
        text: the visible text, without a stop string.
        rejected: the call, or the answer as a call of no tool, that its schema refuses.
    """

    def __init__(
        self, plan: TurnPlan, bound: BoundFormat, tokenizer: Tokenizer, restart: Restart
    ) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.rejected: RejectedCall | None = None
        held = () if plan.grammar is None else plan.grammar.held
        self.parser = plan.parser(bound, held=held, check=check_arguments)
        self._plan = plan
        self._restart = restart
        self._marked = MarkedText(bound.ids, tokenizer)
        self._raw = ""
        self._is_over = False
        self._scores: list[TokenScore] = []
        self._num_scores_told = 0
        self._stop = StopStrings(plan.stop)
        self.push(TokenChunk(restart.kept))  # its events were given out before

    @property
    def calls(self) -> list[ToolCall]:
        """The complete calls; a stop string comes before all of them."""
        return [] if self.is_stopped else self.parser.calls

    @property
    def is_stopped(self) -> bool:
        """A stop string ended the text."""
        return self._stop.is_stopped

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the text."""
        return self._stop.found

    def breaks_off_in(self, refused: Attempt) -> bool:
        """Whether too few tokens were left to say the call that was refused in another way."""
        is_same = len(self.parser.calls) == len(refused.parser.calls)
        return self._is_over and self.rejected is None and self.parser.is_cut and is_same

    def push(self, chunk: TokenChunk) -> list[ParserEvent]:
        """Take tokens; return what they say. The last chunk has a finish reason."""
        self.token_ids += chunk.token_ids
        self._scores += chunk.scores
        raw = self._marked.push(chunk.token_ids)
        is_over = chunk.finish_reason is not None
        if is_over:
            raw += self._marked.flush()
        self._raw += raw
        events = self.parser.push(raw)
        if is_over:
            events += self.parser.finish()
        self.rejected = self.parser.rejected
        self._is_over = chunk.finish_reason in {"stop", "length"}
        if self._is_over and not self.parser.calls:
            self.rejected = self.rejected or self._check_answer()
        passed = self._cut(events, is_over=is_over)
        if self.is_stopped:
            self.rejected = None  # it came after the end
        return self._tell_scores(passed) if chunk.scores else passed

    def scores(self) -> tuple[TokenScore, ...]:
        """Those of the tokens that hold any of the visible text, where they were asked for."""
        if not self.text or len(self._scores) != len(self.token_ids):
            return ()
        start = self.parser.text_start
        if start is None:
            thought = self._raw.find(self.parser.reasoning) + len(self.parser.reasoning)
            start = max(0, self._raw.find(self.text, thought))
        end = start + len(self.text)
        found: list[TokenScore] = []
        begin = 0
        for score, token_end in zip(self._scores, self._marked.ends, strict=True):
            # A token without text of its own holds the first bytes of a character.
            if begin < end and max(token_end, begin + 1) > start:
                found.append(score)
            begin = token_end
        return tuple(found)

    def _tell_scores(self, events: list[ParserEvent]) -> list[ParserEvent]:
        """Add new scores to the last text, unless what was said may be mended."""
        texts = [at for at, event in enumerate(events) if isinstance(event, TextDelta)]
        if texts and self._plan.schema is None and not self._plan.tools:
            told = self._num_scores_told
            scores = self.scores()
            self._num_scores_told = len(scores)
            last = events[texts[-1]]
            assert isinstance(last, TextDelta)
            events[texts[-1]] = TextDelta(last.text, scores[told:])
        return events

    def mend(self, rejected: RejectedCall) -> Restart:
        """Say where the turn goes on: first with another text, then with another beginning."""
        num_kept = self._num_tokens_before(rejected.start)
        kept = tuple(self.token_ids[:num_kept])
        begun = self._marked.ends[num_kept - 1] if num_kept else 0
        said = self._raw[begun : rejected.end]
        # Where markers stand in it, its text up to the first of them has to be another.
        banned = re.split("[\ud800-\udfff]", said)[0].encode()
        last = self._restart
        if banned and last.kept != kept:
            return Restart(kept, (banned,))
        first = frozenset([self.token_ids[num_kept]])
        texts = (*last.banned, banned) if banned else last.banned
        return Restart(kept, texts, last.first_tokens | first)

    def _num_tokens_before(self, position: int) -> int:
        """Tokens that hold nothing of the text from `position` on."""
        ends = self._marked.ends
        num_tokens = next((at for at, end in enumerate(ends) if end > position), len(ends))
        # A token without text of its own holds the first bytes of a character.
        while num_tokens and ends[num_tokens - 1] == (
            ends[num_tokens - 2] if num_tokens > 1 else 0
        ):
            num_tokens -= 1
        return num_tokens

    def _check_answer(self) -> RejectedCall | None:
        """Check an answer whose schema the grammar does not carry whole."""
        start = self.parser.text_start
        if self._plan.schema is None or start is None:
            return None
        text = self._raw[start:]
        try:
            problem = find_problem(self._plan.schema, load_arguments(text))
        except (json.JSONDecodeError, RecursionError):
            return None  # it was cut, which its end says
        if problem is None:
            return None
        at, end = locate_text(text, problem.path)
        return RejectedCall(ToolCall("", "", {}), problem, start + at, start + end)

    def _cut(self, events: list[ParserEvent], *, is_over: bool) -> list[ParserEvent]:
        """Cut the visible text at a stop string."""
        passed: list[ParserEvent] = []
        for event in events:
            if not isinstance(event, TextDelta):
                self._pass(self._stop.flush(), passed)  # text is over, and is no stop string
                passed.append(event)
                continue
            self._pass(self._stop.push(event.text), passed)
            if self.is_stopped:
                return passed
        if is_over:
            self._pass(self._stop.flush(), passed)
        return passed

    def _pass(self, text: str, passed: list[ParserEvent]) -> None:
        if text:
            self.text += text
            passed.append(TextDelta(text))


def check_arguments(tool: ToolSpec, arguments: JsonObject) -> Problem | None:
    """Say what a tool's own schema finds wrong with a call's arguments, if anything."""
    return find_problem(tool.input_schema, arguments)
