"""Recognition by Whisper, through CTranslate2.

Whisper reads 30 seconds, and what is shorter with silence behind it; its encoder is most of the work. It reads a
shorter window nearly as well as long as there is some silence, in a fifth of the time. Where the window is too short
for the words, it says the same again and again, or is not sure of them: then it reads all of 30 seconds.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.listening.interface import RATE, ListeningError, Reading, Request, Segment, Token, Transcript, Word
from pipelines.listening.words import plain, repeated

if TYPE_CHECKING:
    from pipelines.listening.interface import Samples

LONGEST = 30  # seconds that the model reads
SHORTEST = 10  # seconds of a window; less gives wrong words for short audio
SILENCE = 2.0  # seconds behind the audio
STEP = 2  # seconds by which windows differ
FRAMES = 100  # of a second
BEAMS = 5  # for a recording, whose words can wait
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # one after the other, while the words are unlikely or repeat themselves
FEWEST_TOKENS = 16
TOKENS = 12  # for a second of speech, at most
PROMPT_TOKENS = 100  # of what was said before
DOUBTFUL = -1.0  # mean log-probability, below which the words are read again in the longest window
SURE = 0.5  # probability of a language, beyond which it is believed


class Whisper:
    """See ``Recogniser``."""

    def __init__(self, folder: Path, threads: int) -> None:
        from faster_whisper import WhisperModel

        try:
            self._whisper = WhisperModel(
                str(folder), device="cpu", compute_type="int8", cpu_threads=threads, num_workers=1
            )
        except Exception as error:
            raise ListeningError(f"{folder} is not a Whisper model for CTranslate2: {error}") from None
        self._model = self._whisper.model
        self._multilingual = bool(self._model.is_multilingual)
        self._languages = frozenset(self._whisper.supported_languages)

    def __call__(self, samples: "Samples", request: Request) -> Transcript:
        """What is said in at most 30 seconds."""
        seconds = len(samples) / RATE
        window = min(max(SHORTEST, -int(-(seconds + SILENCE) // STEP) * STEP), LONGEST)
        transcript = self._read(samples, window, request)
        doubtful = request.thorough and transcript.logprob < DOUBTFUL
        if window == LONGEST or not (doubtful or repeated(plain(transcript.text), 3)):
            return transcript
        again = self._read(samples, LONGEST, request)
        return again if again.logprob > transcript.logprob or repeated(plain(transcript.text), 3) else transcript

    @property
    def translates(self) -> bool:
        """Whether it can translate into English."""
        return self._multilingual

    def read(self, samples: "Samples", reading: Reading) -> Iterator[Segment]:
        """What is said in a recording of any length. Each step may take a second or more."""
        known = reading.language in self._languages
        segments, info = self._whisper.transcribe(
            samples,
            language=reading.language if known else None if self._multilingual else "en",
            task="translate" if reading.translate else "transcribe",
            beam_size=BEAMS,
            temperature=TEMPERATURES if reading.temperature is None else reading.temperature,
            initial_prompt=reading.prompt or None,
            word_timestamps=reading.words,
            vad_filter=True,  # words are imagined in silence
            condition_on_previous_text=False,  # one mistake would be repeated to the end
        )
        for segment in segments:
            yield Segment(
                segment.start,
                segment.end,
                segment.text,
                info.language,
                tuple(segment.tokens),
                segment.avg_logprob,
                segment.no_speech_prob,
                segment.compression_ratio,
                segment.temperature or 0.0,
                tuple(Word(word.word.strip(), word.start, word.end) for word in segment.words or ()),
            )

    def _read(self, samples: "Samples", window: int, request: Request) -> Transcript:
        encoded = self._encode(samples, window)
        language = self._language_of(encoded, request)
        tokenizer = self._tokenizer(language)
        before = tokenizer.encode(" " + request.prompt.strip())[-PROMPT_TOKENS:] if request.prompt.strip() else []
        prompt = self._whisper.get_prompt(tokenizer, before, without_timestamps=True)
        result = self._model.generate(
            encoded,
            [prompt],
            beam_size=1,
            max_length=len(prompt) + max(FEWEST_TOKENS, int(TOKENS * len(samples) / RATE)),
            return_scores=True,
            return_no_speech_prob=True,
            return_logits_vocab=request.tokens,
            suppress_blank=True,
            suppress_tokens=[-1],
        )[0]
        ids = [token for token in result.sequences_ids[0] if token < tokenizer.eot]
        return Transcript(
            tokenizer.decode(ids).strip(),
            language,
            float(result.scores[0]),
            float(result.no_speech_prob),
            _tokens(tokenizer, ids, result.logits[0]) if request.tokens else (),
        )

    def _encode(self, samples: "Samples", window: int) -> Any:
        import ctranslate2

        padded = np.pad(samples, (0, max(window * RATE - len(samples), 0)))[: window * RATE]
        features = self._whisper.feature_extractor(padded, padding=0)[:, : window * FRAMES]
        return self._model.encode(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(features[None], dtype=np.float32))
        )

    def _language_of(self, encoded: Any, request: Request) -> str:
        if not self._multilingual:
            return "en"
        if request.language in self._languages:
            return request.language
        token, probability = self._model.detect_language(encoded)[0][0]
        return str(token)[2:-2] if probability >= SURE else request.likely

    def _tokenizer(self, language: str) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        return Tokenizer(self._whisper.hf_tokenizer, self._multilingual, task="transcribe", language=language)


def _tokens(tokenizer: Any, ids: list[int], logits: list[Any]) -> tuple[Token, ...]:
    """Each token with its log-probability."""
    made = []
    for id, row in zip(ids, logits, strict=False):
        values = np.asarray(row, dtype=np.float32).reshape(-1)
        peak = float(values.max())
        total = peak + float(np.log(np.exp(values - peak).sum()))
        made.append(Token(tokenizer.decode([id]), float(values[id]) - total))
    return tuple(made)
