"""One running request: what it computes next, and what becomes of the logits."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from pipelines.chat.engine.detokenizer import Detokenizer, StopMatcher
from pipelines.chat.engine.draft import PromptLookup
from pipelines.chat.engine.mailbox import Generate
from pipelines.chat.engine.penalties import Row, best_tokens
from pipelines.chat.engine.sampling import Sampler
from pipelines.chat.engine.slots import Slot
from pipelines.chat.model.interface import LanguageModel, Segment
from pipelines.events import Finished, FinishReason, StageError, Started, TextDelta, TokenLogprob, Usage
from pipelines.kernels import argmax, rule_out

FORCED = 16  # tokens a step that a constraint leaves no choice of
SHARE_FOR_CLOSING = 0.75  # of a reply's tokens may be left for bringing JSON to its end
RULED_OUT = -9999.0  # the log-probability of what can't be, as OpenAI writes it


class Stream:
    """A running request, in its slot."""

    def __init__(self, request: Generate, model: LanguageModel, slot: Slot) -> None:
        self.id = request.id
        self.tenant = request.tenant
        self.slot = slot
        self.ended = False
        self._request = request
        self._stop_tokens = model.stop_tokens
        self._last = min(model.context, len(request.prompt) + (request.sampling.max_tokens or model.context))
        self._reply = self._last - len(request.prompt)
        self._sampler = Sampler(request.sampling, request.prompt, model.stop_tokens)
        self._lookup = PromptLookup()
        self._drafts: list[int] = []
        self._constraint = request.constraint
        self._forced: list[int] = []  # tokens in the step that the constraint leaves no choice of
        self._decode = model.tokenizer.decode
        self._detokenizer = Detokenizer(self._decode)
        self._matcher = StopMatcher(request.sampling.stop)
        self._usage = Usage(input_tokens=len(request.prompt), cached_tokens=slot.computed)
        self._started = False
        self._unsent = 0  # tokens whose text is held back
        self._logprobs_due: list[TokenLogprob] = []  # of those tokens, if asked for

    @property
    def prefilling(self) -> bool:
        """Whether its prompt is not computed yet."""
        return not self._started

    @property
    def left(self) -> int:
        """Tokens that are not in the slot yet."""
        return len(self.slot.tokens) - self.slot.computed

    def prefill(self, most: int) -> Segment:
        """The next chunk of the prompt."""
        start = self.slot.computed
        tokens = self.slot.tokens[start : start + most]
        return Segment(self.slot.number, start, tokens, 1 if len(tokens) == self.left else 0)

    def decode(self, drafts: int) -> Segment:
        """The last token, and behind it tokens that must follow, or up to ``drafts`` draft tokens."""
        slot, constraint = self.slot, self._constraint
        room = self._last - len(slot.tokens) - 1
        if constraint is not None and (forced := constraint.forced(min(FORCED, room))):
            self._forced, self._drafts = forced, []
            return Segment(slot.number, slot.computed, [slot.tokens[-1], *forced], 1)
        self._drafts = self._lookup.draft(slot.tokens, min(drafts, room)) if drafts else []
        if constraint is not None and self._drafts:
            del self._drafts[constraint.allowed(self._drafts) :]
        return Segment(slot.number, slot.computed, [slot.tokens[-1], *self._drafts], 1 + len(self._drafts))

    def constrain(self, segment: Segment, logits: Tensor) -> None:
        """Rule out, in place, what the reply's constraint does not allow; ``logits`` (wanted, V).

        Raises: StageError when the constraint has become too complex.
        """
        if self._constraint is not None and segment.wanted:
            ahead = self._forced or self._drafts
            closing = self._last - len(self.slot.tokens) <= min(
                int(self._reply * SHARE_FOR_CLOSING), self._constraint.reserve
            )
            rule_out(logits, self._constraint.masks(ahead, segment.wanted, closing=closing))

    def take(self, segment: Segment, logits: Tensor, likeliest: Sequence[int]) -> None:
        """Take what was computed: ``logits`` (wanted, V) and the best token of each row, see ``best_of``."""
        if self.prefilling:
            self.slot.computed += len(segment.tokens)
            if not segment.wanted:
                return
            self._started = True
            self._request.mailbox.put(Started(self._usage.input_tokens, self._usage.cached_tokens))
            self._push([self._draw(logits[0], likeliest[0])], logits)
            return
        if self._forced:
            self._take_forced(logits, likeliest[0])
            return
        said: list[int] = []
        right = 0
        for row in range(segment.wanted):
            said.append(self._draw(logits[row], likeliest[row]))
            if row == len(self._drafts) or said[-1] != self._drafts[row] or said[-1] in self._stop_tokens:
                break
            right += 1
        self.slot.computed += len(said)
        self._lookup.learn(len(self._drafts), right)
        self._push(said, logits)

    def _take_forced(self, logits: Tensor, likeliest: int) -> None:
        """Take the tokens that had to follow, and the one behind them, from ``logits`` (1, V)."""
        forced, self._forced = self._forced, []
        self.slot.computed += 1 + len(forced)
        self._push([self._sampler.take(token) for token in forced])
        if not self.ended:
            self._push([self._draw(logits[0], likeliest)], logits)

    def penalised(self, row: int, segment: Segment) -> Iterator[Row]:
        """The rows of its logits whose best token is to be found under penalties; ``row`` of all is its first."""
        if self._sampler.greedy and self._sampler.penalties.any:
            drafts = segment.tokens[len(segment.tokens) - segment.wanted + 1 :]
            for n in range(segment.wanted):  # the drafts before a row were said, if the row counts
                yield Row(row + n, self._sampler.penalties, self._forced or drafts[:n])

    def _draw(self, logits: Tensor, best: int) -> int:
        return self._sampler.take(best) if self._sampler.greedy else self._sampler.draw(logits)

    def _push(self, tokens: Sequence[int], logits: Tensor | None = None) -> None:
        """Take in these tokens, drawn from one row of ``logits`` each; without choice where there are none."""
        text: list[str] = []
        reason: FinishReason | None = None
        for row, token in enumerate(tokens):
            if token in self._stop_tokens and not self._request.sampling.ignore_eos:
                reason = "stop"
                break
            self.slot.tokens.append(token)
            self._usage = replace(self._usage, output_tokens=self._usage.output_tokens + 1)
            self._unsent += 1
            if self._request.sampling.logprobs is not None:
                self._logprobs_due.append(self._logprob(token, None if logits is None else logits[row]))
            text.append(self._matcher.push(self._detokenizer.push(token)))
            if self._constraint is not None:
                self._constraint.take([token])
            if self._matcher.stopped or (self._constraint is not None and self._constraint.done):
                reason = "stop"
                break
            if len(self.slot.tokens) == self._last:
                reason = "length"
                break
        self._deliver("".join(text))
        if reason is not None:
            self.end(reason)

    def end(self, reason: FinishReason) -> None:
        """Deliver what was held back and the last event."""
        if not self._matcher.stopped:
            self._deliver(self._matcher.push(self._detokenizer.flush()) + self._matcher.flush())
        if self._logprobs_due:  # of tokens that have no text
            self._request.mailbox.put(TextDelta("", self._unsent, tuple(self._logprobs_due)))
        self._close(Finished(reason, self._usage))

    def cancel(self) -> None:
        """Deliver the last event only: after a cancel no text is wanted."""
        self._close(Finished("cancelled", self._usage))

    def fail(self, error: StageError) -> None:
        """Deliver the error that ends this request, and empty its slot."""
        self.slot.computed = 0
        self._close(error)

    def _close(self, event: Finished | StageError) -> None:
        self.ended = True
        self.slot.computed = min(self.slot.computed, len(self.slot.tokens))
        self._request.mailbox.put(event)

    def _deliver(self, text: str) -> None:
        if text:
            self._request.mailbox.put(TextDelta(text, self._unsent, tuple(self._logprobs_due)))
            self._unsent = 0
            self._logprobs_due.clear()

    def _logprob(self, token: int, logits: Tensor | None) -> TokenLogprob:
        if logits is None:
            return TokenLogprob(self._decode([token]), 0.0)
        logprobs = logits.float().log_softmax(dim=-1).clamp(min=RULED_OUT)
        best, ids = logprobs.topk(min(self._request.sampling.logprobs or 0, len(logprobs)))
        likeliest = zip((self._decode([id]) for id in ids.tolist()), best.tolist(), strict=True)
        return TokenLogprob(self._decode([token]), float(logprobs[token]), tuple(likeliest))


def constrain(logits: Tensor, work: Sequence[tuple[Stream, Segment]]) -> list[tuple[Stream, Exception]]:
    """Rule out, in place, what the streams' constraints do not allow; returns streams that failed, and why."""
    failed: list[tuple[Stream, Exception]] = []
    row = 0
    for stream, segment in work:
        try:
            stream.constrain(segment, logits[row : row + segment.wanted])
        except Exception as error:
            failed.append((stream, error))
        row += segment.wanted
    return failed


def best_of(logits: Tensor, work: Sequence[tuple[Stream, Segment]]) -> list[int]:
    """The likeliest token of each row of ``logits``; of a greedy stream's, the best under its penalties."""
    rows: list[Row] = []
    row = 0
    for stream, segment in work:
        rows.extend(stream.penalised(row, segment))
        row += segment.wanted
    return best_tokens(logits, rows) if rows else argmax(logits)
