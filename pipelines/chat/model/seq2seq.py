"""Encoder-decoders of ``transformers`` (T5, BART, Marian, NLLB and their like), as the engine wants them.

A slot's text is the encoder's input followed by the decoder's tokens. The encoder reads new prompts, packed into one
row, and leaves keys and values for the decoder's cross-attention in their slots; the decoder decodes all streams in one
pass. Both are the model's own code.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from pipelines import kernels
from pipelines.chat.model.attention import Unsupported
from pipelines.chat.model.graph import Step
from pipelines.chat.model.interface import Segment
from pipelines.chat.model.seq2seq_attention import DECODER, ENCODER, DecoderSlots, attach_decoder, attach_encoder
from pipelines.chat.model.seq2seq_rules import Rules
from pipelines.chat.model.seq2seq_tokenizer import SourceTokenizer
from pipelines.chat.model.transformer import TOLERANCE, stop_tokens

CHECKED = 9  # tokens of each text with which a model is tried


class EncoderDecoder:
    """Runs the model's own code, the decoder's on all streams together, with our attention over static slots.

    A slot holds an input of ``tokenizer.input`` tokens and ``context`` tokens of a reply with its start.

    Raises: Unsupported for a decoder that the slots can't serve.
    """

    seekable = True

    def __init__(
        self, model: PreTrainedModel, tokenizer: SourceTokenizer, *, context: int, slots: int, threads: int
    ) -> None:
        self.tokenizer = self.encoder = tokenizer
        self.context = tokenizer.input + context
        self.slots = slots
        self.stop_tokens = stop_tokens(model, tokenizer)
        self.parameters = sum(weight.numel() for weight in model.parameters())
        self._model = model
        self._most_threads = threads
        self._fused = False
        self._reply = context
        self._rules = Rules.of(model.generation_config, self.stop_tokens, tokenizer.start.count)
        self._inputs = [0] * slots  # tokens of the encoded texts
        self._texts: list[list[int]] = [[] for _ in range(slots)]  # of the decoder
        encoder, decoder = model.get_encoder(), model.get_decoder()
        self._slots = DecoderSlots(decoder, slots, context, tokenizer.input)
        self._table = self._slots.table.numpy()
        attach_encoder(encoder, self._slots)
        attach_decoder(decoder, context)
        self.reader = EncoderModules(model, self._slots)
        self.writer = DecoderModules(model, context)
        self._read: Step = self.reader
        self._step: Step = self.writer
        _attend_by(encoder, ENCODER)
        _attend_by(decoder, DECODER)

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """Encode new prompts, read the decoder's tokens in one pass; the logits asked for, (the sum of ``wanted``, V).

        Raises: ValueError for a text that outgrows its slot.
        """
        logits = self.decode(segments)
        if self._rules.any and len(logits):
            self._rules.apply(logits, list(self._behind(segments)))
        return logits

    def decode(self, segments: Sequence[Segment]) -> Tensor:
        """As ``forward``, without the rules of the model's generation config."""
        self._encode([segment for segment in segments if segment.start == 0])
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        table = [[len(segments), 0, 0, 0]]
        for segment in segments:
            inputs, text = self._inputs[segment.slot], self._texts[segment.slot]
            new = segment.tokens[inputs:] if segment.start == 0 else segment.tokens
            start = max(segment.start - inputs, 0)
            if start + len(new) > self._reply:
                raise ValueError(f"a reply of more than {self._reply} tokens")
            text[start:] = new
            table.append([len(tokens), len(new), segment.slot, start])
            tokens.extend(new)
            positions.extend(range(start, start + len(new)))
            wanted.extend(range(len(tokens) - segment.wanted, len(tokens)))
        logits = self._run(self._step, table, tokens, positions, wanted or [0])
        return logits if wanted else logits[:0]

    def compute_with(self, threads: int) -> None:
        """Use up to so many threads: the kernels', and PyTorch's where there are none."""
        threads = min(threads, self._most_threads)
        kernels.use_threads(threads)
        torch.set_num_threads(1 if self._fused else threads)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Not to be had: a prompt is encoded as a whole, so none can use a part of another's."""
        raise NotImplementedError

    def run(self, read: Step | None, write: Step | None) -> None:
        """Encode and decode by these traced steps from now on, where there are such."""
        self._read = read or self._read
        self._step = write or self._step
        self._fused = None not in (read, write) and kernels.load()
        self.compute_with(self._most_threads)

    def _behind(self, segments: Sequence[Segment]) -> Iterator[list[int]]:
        """The decoder's text up to each token whose logits are wanted."""
        for segment in segments:
            text = self._texts[segment.slot]
            for behind in range(segment.wanted - 1, -1, -1):
                yield text[: len(text) - behind]

    def _encode(self, prompts: Sequence[Segment]) -> None:
        """Run the encoder on new prompts, all in one row."""
        if not prompts:
            return
        starts = self.tokenizer.start.count
        tokens: list[int] = []
        positions: list[int] = []
        table = [[len(prompts), 0, 0, 0]]
        for segment in prompts:
            count = len(segment.tokens) - starts
            if not 0 < count <= self.tokenizer.input:
                raise ValueError(f"an input of {count} tokens, of at most {self.tokenizer.input}")
            table.append([len(tokens), count, segment.slot, 0])
            tokens.extend(segment.tokens[:count])
            positions.extend(range(count))
        projected = self._run(self._read, table, tokens, positions, [0])
        for offset, count, slot, _ in table[1:]:
            self._slots.write(slot, projected[offset : offset + count])
            self._inputs[slot] = count
            self._texts[slot].clear()

    def _run(
        self, step: Step, table: list[list[int]], tokens: list[int], positions: list[int], wanted: list[int]
    ) -> Tensor:
        """What the step gives for these tokens and segments, (rows, width)."""
        self._table[: len(table)] = table
        given = (np.array([tokens]), np.array([positions]), np.array(wanted))
        return step(*(torch.from_numpy(each).to(self._model.device) for each in given))[0]


def _attend_by(part: Any, name: str) -> None:
    """Let the encoder or the decoder attend by the interface of this name, whatever the other does."""
    config = copy.deepcopy(part.config)
    config._attn_implementation = name
    for module in part.modules():
        if getattr(module, "config", None) is not None:
            module.config = config


class EncoderModules(nn.Module):
    """An encoder's pass, and what the decoder attends to of it, as the model's own modules compute it in packed rows.

    Changes the encoder's positions as ``DecoderModules`` the decoder's.
    """

    def __init__(self, model: PreTrainedModel, slots: DecoderSlots) -> None:
        super().__init__()
        self.model = model
        self._given = _Positions()
        self._projections = [*slots.projections]  # a list, as they are the model's
        _take_positions(model.get_encoder(), slots.inputs, self._given)

    def forward(self, tokens: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
        """Tokens and positions (1, N): keys and values of the cross-attention layers side by side, (1, N, width)."""
        self._given.now = positions
        encoder: Any = self.model.get_encoder()
        encoded = encoder(input_ids=tokens).last_hidden_state
        return torch.cat([projection(encoded) for projection in self._projections], dim=-1)


class DecoderModules(nn.Module):
    """A decoder's step as the model's own modules compute it, in a text at whatever positions.

    Changes the decoder: its positions are those that a step is given, instead of those of one text from its beginning.
    """

    def __init__(self, model: PreTrainedModel, context: int) -> None:
        super().__init__()
        self.model = model
        self._given = _Positions()
        _take_positions(model.get_decoder(), context, self._given)
        self._stand_in = torch.zeros(1, 1, model.config.hidden_size, dtype=model.dtype, device=model.device)

    def forward(self, tokens: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
        """Tokens and positions (1, N), wanted rows (R): their logits, (1, R, V)."""
        self._given.now = positions
        encoded = BaseModelOutput(last_hidden_state=self._stand_in)  # what is known of the real one is in the slots
        model: Any = self.model
        output = model(encoder_outputs=encoded, decoder_input_ids=tokens, use_cache=False)
        logits: Tensor = output.logits[:, wanted]
        return logits


class _Positions:
    """Of the tokens of the step in progress, (1, N)."""

    now: Tensor


class _SlotPositions(nn.Module):
    """Takes the embeddings of the step's positions from a table, (context, d)."""

    def __init__(self, table: Tensor, given: _Positions) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        self._given = given

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """(1, N, d), whatever a decoder passes."""
        return functional.embedding(self._given.now, self.table)  # type: ignore[arg-type]


class _Caught(Exception):  # noqa: N818 - no error: it ends a forward pass that is not wanted further
    """What the module that embeds positions gave."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def _take_positions(part: Any, most: int, given: _Positions) -> None:
    """Let an encoder or decoder that embeds positions embed the given ones."""
    if hasattr(part, "embed_positions"):
        part.embed_positions = _SlotPositions(_table_of(part, most), given)


def _table_of(part: Any, most: int) -> Tensor:
    """The embeddings of the first positions, as the encoder or decoder itself makes them for a text; (most, d)."""

    def catch(_module: nn.Module, _arguments: Any, output: Tensor) -> None:
        raise _Caught(output)

    handle = part.embed_positions.register_forward_hook(catch)
    text = torch.full((1, most), 0 if part.config.pad_token_id != 0 else 1, device=part.device)
    try:
        with torch.no_grad():
            part(input_ids=text)
    except _Caught as caught:
        return caught.output.reshape(most, -1).clone()
    finally:
        handle.remove()
    raise Unsupported("it does not call what embeds its positions")


@torch.inference_mode()
def checked(model: PreTrainedModel, make: Callable[[], EncoderDecoder]) -> EncoderDecoder:
    """What ``make`` makes of the model, tried on texts that are read in pieces and compared with the model's own code.

    Raises: Unsupported if they differ.
    """
    pad, ids = model.config.pad_token_id, min(vocabularies(model))
    chance = torch.Generator().manual_seed(0)
    texts = torch.randint(ids, (4, CHECKED), generator=chance)
    texts[texts == pad] = (pad or 0) + 1 if (pad or 0) + 1 < ids else 0
    device = model.device
    own = model(input_ids=texts[:1].to(device), decoder_input_ids=texts[2:3].to(device)).logits[0]
    served = make()
    starts = served.tokenizer.start.count
    sources, targets = texts[:2].tolist(), texts[2:].tolist()
    sources[1] = sources[1][: CHECKED - 2]  # a neighbour of another length
    slots = range(min(2, served.slots))
    done, rows = 0, []
    for count in (starts, 1, 3, 1, CHECKED - 5 - starts):
        pieces = []
        for n in slots:
            new, start = targets[n][done : done + count], len(sources[n]) + done
            pieces.append(Segment(n, start, new, count) if done else Segment(n, 0, sources[n] + new, count))
        rows.append(served.decode(pieces)[:count].clone())
        done += count
    expected, given = own.float(), torch.cat(rows).float()
    error = float((given - expected).norm() / expected.norm())
    if not error < TOLERANCE[model.dtype]:
        raise Unsupported(f"over slots its logits differ by {error:.1%}")
    return served


def vocabularies(model: PreTrainedModel) -> tuple[int, int]:
    """How many tokens the encoder and the decoder know."""
    encoder, decoder = (part.get_input_embeddings() for part in (model.get_encoder(), model.get_decoder()))
    return int(encoder.weight.shape[0]), int(decoder.weight.shape[0])
