"""Piper voices: VITS in ONNX, whose sound begins long before the sentence is computed.

A Piper voice is one graph, from phonemes to samples. Here it is cut in two: what reads the sentence and plans its sound
(text encoder, durations, flow), and the vocoder, which turns the plan into samples and is most of the work. The vocoder
sees a few frames around each place only, so it runs over windows with as much overlap as it sees, and its samples are
those of the whole.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.speech.settings import SpeechSettings
from pipelines.speech.timing import even_word_ends, word_ends
from pipelines.speech.voice import Samples, VoiceError, WordEnd

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession
    from piper import PiperVoice as PiperLibraryVoice

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

VOCODER = "/dec/"  # what the vocoder's nodes are called in the voices that Piper's training exports
INPUTS = {"input", "input_lengths", "scales"}
FIRST_FRAMES = 24  # of the first window: about a quarter of a second
MOST_FRAMES = 160  # of later ones; others wait for no more than this takes, about 60 ms
CONTEXTS = (8, 12, 16, 24, 32)  # frames around a window that its samples may depend on
SAME = 1e-4  # a difference of samples that nobody hears
WARM_UP = "Ready to speak."


class PiperVoice:
    """One voice; see ``Voice``."""

    def __init__(self, library: "PiperLibraryVoice", model: "_Model", settings: SpeechSettings) -> None:
        config = library.config
        self.rate = config.sample_rate
        self.language = config.espeak_voice
        self.speakers = tuple(config.speaker_id_map)
        self._library = library
        self._config = config
        self._model = model
        self._noise = config.noise_scale if settings.noise == "voice" else settings.noise
        self._rhythm = config.noise_w_scale if settings.rhythm == "voice" else settings.rhythm

    def say(self, text: str, speaker: str, speed: float) -> Iterator[Samples]:
        """Speak one sentence."""
        phonemes = self._phonemes(text)
        ids, places = self._ids(phonemes)
        if not places:
            return
        scales = (self._noise, self._config.length_scale / speed, self._rhythm)
        speaker_id = self._config.speaker_id_map.get(speaker, self._config.default_speaker_id)
        plan = self._model.plan(ids, scales, speaker_id)
        words = self._words(text, phonemes, places, plan)
        for audio in self._model.sound(plan):
            yield Samples(audio, words)
            words = ()

    def _phonemes(self, text: str) -> list[str]:
        """All of the text's as one utterance; espeak-ng may see several sentences in it."""
        return [phoneme for group in self._library.phonemize(text) for phoneme in (*group, " ")][:-1]

    def _ids(self, phonemes: Sequence[str]) -> tuple[list[int], list[int]]:
        """What the model reads, and how many of its ids there are behind each phoneme; one that it lacks is silent.

        No places where nothing of the text has a sound.
        """
        known = self._config.phoneme_id_map
        pad = known["_"]
        ids = [*known["^"], *pad]
        places = []
        sounds = False
        for phoneme in phonemes:
            if phoneme in known:
                ids += [*known[phoneme], *pad]
                sounds = sounds or phoneme.isalnum()
            places.append(len(ids))
        return [*ids, *known["$"]], places if sounds else []

    def _words(self, text: str, phonemes: Sequence[str], places: Sequence[int], plan: "_Plan") -> tuple[WordEnd, ...]:
        if plan.durations is None:
            return even_word_ends(text, plan.frames * self._model.frame)
        behind = np.cumsum(plan.durations) * self._model.frame
        ends = [int(behind[place - 1]) for place in places]
        return word_ends(text, phonemes, ends, lambda word: len(self._phonemes(word)))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the vocoder reads."""

    latent: Floats  # (1, C, frames)
    durations: Floats | None  # (ids,), frames of each; None where the voice does not tell
    conditions: dict[str, Floats]  # what else there is, such as the speaker's embedding

    @property
    def frames(self) -> int:
        return int(self.latent.shape[2])


class _Model:
    """The two halves of a voice's graph."""

    def __init__(self, planner: "InferenceSession", vocoder: "InferenceSession") -> None:
        self._planner = planner
        self._vocoder = vocoder
        self._takes_speaker = "sid" in {given.name for given in planner.get_inputs()}
        self._latent, *self._conditions = (given.name for given in vocoder.get_inputs())
        self._context: int | None = None  # frames that the vocoder sees on each side; None: all of them
        self.frame = 0  # samples
        self._measure()

    def plan(self, ids: Sequence[int], scales: Sequence[float], speaker: int) -> _Plan:
        """Read the phonemes and plan their sound."""
        given: dict[str, Any] = {
            "input": np.array([ids], dtype=np.int64),
            "input_lengths": np.array([len(ids)], dtype=np.int64),
            "scales": np.array(scales, dtype=np.float32),
        }
        if self._takes_speaker:
            given["sid"] = np.array([speaker], dtype=np.int64)
        latent, durations, *conditions = self._planner.run(None, given)
        told = durations.reshape(-1) if durations.size == len(ids) else None
        return _Plan(latent, told, dict(zip(self._conditions, conditions, strict=True)))

    def sound(self, plan: _Plan) -> Iterator[Floats]:
        """The samples, (N,) at a time: little at first, so that it is heard soon."""
        begin, size = 0, FIRST_FRAMES
        if self._context is None:
            yield self._run(plan.latent, plan.conditions)
            return
        while begin < plan.frames:
            end = begin + size if begin + size + size // 2 < plan.frames else plan.frames
            left, right = max(begin - self._context, 0), min(end + self._context, plan.frames)
            audio = self._run(plan.latent[:, :, left:right], plan.conditions)
            yield audio[(begin - left) * self.frame : (end - left) * self.frame]
            begin, size = end, min(3 * size, MOST_FRAMES)

    def _run(self, latent: Floats, conditions: dict[str, Floats]) -> Floats:
        (audio,) = self._vocoder.run(None, {self._latent: latent, **conditions})
        return np.asarray(audio, dtype=np.float32).reshape(-1)

    def _measure(self) -> None:
        """Find out how long a frame is, and how much the vocoder sees around one."""
        plan = self.plan([0] * 8, (0.0, 1.0, 0.0), 0)
        channels = plan.latent.shape[1]
        frames = 2 * max(CONTEXTS) + 8
        latent = np.random.default_rng(0).standard_normal((1, channels, frames), dtype=np.float32)
        whole = self._run(latent, plan.conditions)
        self.frame = len(whole) // frames
        begin, end = frames // 2 - 4, frames // 2 + 4
        wanted = whole[begin * self.frame : end * self.frame]
        for context in CONTEXTS:
            window = self._run(latent[:, :, begin - context : end + context], plan.conditions)
            if np.abs(window[context * self.frame : -context * self.frame] - wanted).max() < SAME:
                self._context = context
                return
        log.warning("this voice's vocoder sees further than %d frames: sentences are computed whole", CONTEXTS[-1])


def load(path: Path, settings: SpeechSettings, threads: int) -> PiperVoice:
    """Load a Piper voice, an ``.onnx`` file with its ``.onnx.json`` beside it.

    Raises: VoiceError that names the file and says what is wrong with it; ModuleNotFoundError without Piper.
    """
    import onnx
    from piper import PiperVoice as PiperLibraryVoice

    logging.getLogger("piper").setLevel(logging.ERROR)  # at lower levels it logs what it is to say
    config = _read_config(path.with_name(path.name + ".json"))
    if not path.is_file():
        raise VoiceError(f"There is no voice {path}: give the path of a Piper voice, an .onnx file.")
    try:
        graph = onnx.load(path)
    except Exception as error:  # what protobuf raises is its own
        raise VoiceError(f"The voice {path} can't be read, it may be truncated: {error}") from None
    inputs = {given.name for given in graph.graph.input}
    if not inputs >= INPUTS:
        raise VoiceError(
            f"{path} is no Piper voice: its inputs are {', '.join(sorted(inputs)) or 'none'}, "
            f"and a Piper voice has {', '.join(sorted(INPUTS))}."
        )
    try:
        planner, vocoder = _halves(graph)
        model = _Model(_session(planner, threads), _session(vocoder, threads))
        library = PiperLibraryVoice(session=model._planner, config=config)
        voice = PiperVoice(library, model, settings)
        for _ in voice.say(WARM_UP, "", 1.0):  # espeak-ng reads its tables at its first word
            pass
    except Exception as error:
        log.debug("the voice could not be loaded", exc_info=True)
        raise VoiceError(f"The voice {path} is not one that can be spoken with: {error}") from None
    if settings.speaker and settings.speaker not in voice.speakers:
        known = ", ".join(voice.speakers) or "only one, without a name"
        raise VoiceError(f"The voice {path} has no speaker {settings.speaker!r}; there is {known}.")
    return voice


def _read_config(path: Path) -> Any:
    from piper import PiperConfig

    if not path.is_file():
        raise VoiceError(f"There is no file {path}: a Piper voice comes with its configuration beside it.")
    try:
        config = PiperConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except KeyError as error:
        raise VoiceError(f"{path} is not the configuration of a Piper voice: {error} is missing.") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise VoiceError(f"{path} is not the configuration of a Piper voice: {error}") from None
    if missing := {"_", "^", "$"} - set(config.phoneme_id_map):
        raise VoiceError(f"{path}: phoneme_id_map lacks {', '.join(sorted(missing))}.")
    return config


def _halves(model: "onnx.ModelProto") -> tuple["onnx.ModelProto", "onnx.ModelProto"]:
    """Cut the graph before its vocoder."""
    nodes = model.graph.node
    initial = {tensor.name for tensor in model.graph.initializer}
    vocoder = [node for node in nodes if node.name.startswith(VOCODER)]
    made_there = {output for node in vocoder for output in node.output}
    behind = [node for node in nodes if not node.name.startswith(VOCODER) and set(node.input) & made_there]
    vocoder += behind
    mine = {id(node) for node in vocoder}
    planner = [node for node in nodes if id(node) not in mine]
    made_before = {output for node in planner for output in node.output}
    first = next((node for node in vocoder if node.name == f"{VOCODER}conv_pre/Conv"), None)
    durations = [node.output[0] for node in planner if node.op_type == "Ceil"]
    if first is None or len(durations) != 1:
        raise ValueError("its graph is not that of a VITS voice")
    crossing = dict.fromkeys([first.input[0]])
    crossing |= dict.fromkeys(
        name
        for node in vocoder
        for name in node.input
        if name in made_before and name not in made_there | initial and not _is_constant(planner, name)
    )
    constants = [
        node for node in planner if node.op_type == "Constant" and any(node.output[0] in user.input for user in vocoder)
    ]
    outputs = [node.output[0] for node in vocoder if node.output[0] == model.graph.output[0].name]
    plan, *conditions = crossing
    return (
        _graph(model, planner, list(model.graph.input), [plan, durations[0], *conditions]),
        _graph(model, [*constants, *vocoder], [_float(name) for name in crossing], outputs),
    )


def _is_constant(nodes: "Sequence[onnx.NodeProto]", name: str) -> bool:
    return any(node.op_type == "Constant" and name in node.output for node in nodes)


def _float(name: str) -> "onnx.ValueInfoProto":
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def _graph(
    model: "onnx.ModelProto",
    nodes: "Sequence[onnx.NodeProto]",
    inputs: "Sequence[onnx.ValueInfoProto]",
    outputs: Sequence[str],
) -> "onnx.ModelProto":
    import onnx

    used = {name for node in nodes for name in node.input}
    initial = [tensor for tensor in model.graph.initializer if tensor.name in used]
    graph = onnx.helper.make_graph(nodes, "half", inputs, [_float(name) for name in outputs], initial)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _session(model: "onnx.ModelProto", threads: int) -> "InferenceSession":
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its threads wait for work in a loop while they compute, and not a moment longer: the chat model needs the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
