"""From a Piper voice to a Coqui checkpoint: the same VITS, whose weights go by other names.

The export lacks what only training needs (posterior encoder, part of the duration predictor). Coqui's loader wants it
all the same, so it is there, seeded and never used.
"""

import json
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.downloads.progress import Progress
from pipelines.speech.voices.interface import VoiceError
from pipelines.speech.voices.piper_graph import made_of

if TYPE_CHECKING:
    from torch import Tensor

CONVERSION = 1  # raise it when checkpoints that were converted before must be made again
CHECKPOINT, CONFIG = "model.pth", "config.json"
MARK = "loquent.json"  # says that a checkpoint was converted here, and so that it knows Piper's phonemes
PREFIXES = {"enc_p.": "text_encoder.", "dp.": "duration_predictor.", "flow.": "flow.", "dec.": "waveform_decoder."}
FLOWS = {"0": "0", "2": "1", "4": "2", "6": "3"}  # Coqui has no modules between them
DURATION_FLOWS = {"0": "0", "3": "2", "5": "3", "7": "4"}
PUNCTUATION = "!,.:;?"
PAD, BEGIN, END, BLANK = "_", "^", "$", "<BLNK>"


def converted(voice: Path, stop: threading.Event) -> Generator[Progress, None, Path]:
    """The folder in the cache that holds the voice as a Coqui checkpoint; it is made if it is not there.

    Raises: VoiceError when the file is no Piper voice that can be converted.
    """
    text = f"converting the voice {voice.stem} for Coqui, once"
    return (yield from made_of(voice, "coqui", CONVERSION, text, convert, stop))


def convert(voice: Path, folder: Path) -> None:
    """Write the Piper voice (an ``.onnx`` with its ``.onnx.json``) into ``folder`` as a Coqui checkpoint.

    Raises: VoiceError when it is none, or has several speakers.
    """
    import onnx
    import torch
    from TTS.tts.models.vits import Vits

    from pipelines.speech.coqui_phonemes import use_bundled_espeak

    use_bundled_espeak()
    try:
        about = json.loads(voice.with_name(voice.name + ".json").read_text(encoding="utf-8"))
        graph = onnx.load(voice).graph
        if about["num_speakers"] > 1:
            raise VoiceError(f"{voice} has several speakers; only voices with one can be converted.")
        config = _config(about)
        torch.manual_seed(0)  # of what is never used
        model = Vits(config)
        _fill(model, _weights(graph), _rows(about["phoneme_id_map"]))
    except VoiceError:
        raise
    except Exception as error:
        raise VoiceError(f"{voice} can't be converted for Coqui: {error!r}") from error
    model.config.save_json(str(folder / CONFIG))
    torch.save({"model": model.state_dict(), "config": model.config.to_dict()}, folder / CHECKPOINT)
    (folder / MARK).write_text(json.dumps({"converted_from": voice.name}, indent=2) + "\n", encoding="utf-8")


def _phonemes(ids: dict[str, list[int]]) -> tuple[str, str]:
    """The voice's phonemes, of one character each: the letters, and the punctuation marks."""
    known = [phoneme for phoneme in ids if len(phoneme) == 1 and phoneme not in (PAD, BEGIN, END)]
    return "".join(p for p in known if p not in PUNCTUATION), "".join(p for p in known if p in PUNCTUATION)


def _config(about: dict[str, Any]) -> Any:
    """A ``VitsConfig`` that says what is in the voice."""
    from TTS.config.shared_configs import BaseAudioConfig
    from TTS.tts.configs.shared_configs import CharactersConfig
    from TTS.tts.configs.vits_config import VitsConfig
    from TTS.tts.models.vits import VitsArgs

    letters, marks = _phonemes(about["phoneme_id_map"])
    rate = about["audio"]["sample_rate"]
    inference = about.get("inference", {})
    arguments = VitsArgs(
        resblock_type_decoder="2",
        resblock_kernel_sizes_decoder=[3, 5, 7],
        resblock_dilation_sizes_decoder=[[1, 2], [2, 6], [3, 12]],
        upsample_rates_decoder=[8, 8, 4],
        upsample_kernel_sizes_decoder=[16, 16, 8],
        upsample_initial_channel_decoder=256,
        num_layers_posterior_encoder=1,
        init_discriminator=False,
        inference_noise_scale=inference.get("noise_scale", 0.667),
        inference_noise_scale_dp=inference.get("noise_w", 0.8),
        length_scale=inference.get("length_scale", 1.0),
    )
    characters = CharactersConfig(
        characters_class="TTS.tts.utils.text.characters.IPAPhonemes",
        pad=PAD,
        eos=END,
        bos=BEGIN,
        blank=BLANK,
        characters=letters,
        punctuations=marks,
        is_unique=False,
        is_sorted=False,
    )
    return VitsConfig(
        model_args=arguments,
        audio=BaseAudioConfig(sample_rate=rate, hop_length=256, do_trim_silence=False),
        use_phonemes=True,
        phonemizer="espeak",
        phoneme_language=about["espeak"]["voice"],
        text_cleaner=None,
        add_blank=True,
        enable_eos_bos_chars=True,
        characters=characters,
    )


def _rows(ids: dict[str, list[int]]) -> list[int]:
    """The embedding's rows in Coqui's order; what separates phonemes is Piper's padding."""
    letters, marks = _phonemes(ids)
    return [ids[phoneme][0] for phoneme in (PAD, END, BEGIN, PAD, *letters, *marks)]


def _weights(graph: Any) -> "dict[str, Tensor]":
    """The export's weights by the names that they had in training."""
    import torch
    from onnx import numpy_helper

    values = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    weights = {name: value for name, value in values.items() if name.startswith(tuple(PREFIXES))}
    for node in graph.node:
        path = node.name.strip("/").replace("/", ".")
        if node.name == "/enc_p/emb/Gather":
            weights["enc_p.emb.weight"] = values[node.input[0]]
        elif node.op_type == "Conv" and node.input[1] in values:  # exporters lose the names of some
            weights[f"{path.removesuffix('.Conv')}.weight"] = values[node.input[1]]
    # Constant folding left exp(-logs) of what was logs.
    weights["dp.flows.0.logs"] = -torch.log(values["/dp/flows.0/Exp_output_0"])
    return weights


def _renamed(name: str) -> str:
    prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
    rest = name.removeprefix(prefix).split(".")
    if rest[0] == "flows":
        rest[1] = (DURATION_FLOWS if prefix == "dp." else FLOWS)[rest[1]]
    if prefix == "dp." and rest[-1] in ("m", "logs"):
        rest[-1] = {"m": "translation", "logs": "log_scale"}[rest[-1]]
    return PREFIXES[prefix] + ".".join(rest)


def _fill(model: Any, weights: "dict[str, Tensor]", rows: list[int]) -> None:
    """Give the model these weights. Raises: VoiceError when one has no place, or a place that speech needs none."""
    import torch
    from torch.nn.utils import parametrize

    weights["enc_p.emb.weight"] = weights["enc_p.emb.weight"][rows]
    filled = set()
    with torch.no_grad():
        for name, value in weights.items():
            path = _renamed(name)
            owner, _, attribute = path.rpartition(".")
            module = model.get_submodule(owner)
            if getattr(module, attribute).shape != value.shape:
                raise VoiceError(
                    f"The voice's {name} has the shape {tuple(value.shape)}, which is not that of its kind."
                )
            if parametrize.is_parametrized(module, attribute):
                setattr(module, attribute, value)  # splits it into its direction and its length
                filled |= {f"{owner}.parametrizations.{attribute}.original{part}" for part in (0, 1)}
            else:
                getattr(module, attribute).copy_(value)
                filled.add(path)
    unused = ("posterior_encoder.", "duration_predictor.post_", "duration_predictor.flows.1.")
    missing = [name for name in model.state_dict() if name not in filled and not name.startswith(unused)]
    if missing:
        raise VoiceError(f"The voice lacks {', '.join(missing[:3])}.")
