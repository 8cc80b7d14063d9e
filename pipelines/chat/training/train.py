"""Trains a small T5 that says numbers and dates in words: to show, and to test, models with an encoder.

What is random in a step comes from the seed and the step's number alone; everything else is in the checkpoint.
"""

import itertools
import json
import math
import random
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from pipelines.chat.training.spelling import TASKS, Pair, pairs
from pipelines.downloads.progress import Progress, Stopped

PAD, EOS, UNKNOWN = 0, 1, 2
VOCABULARY = 192
LONGEST = 32  # tokens of a text, for which the tokenizer says so
WORDS_SHOWN = 4000  # texts of which the tokenizer learns words

STEPS = 1200
BATCH = 128
RATE = 3e-3
WARM = 100  # steps until the rate is reached
SAVED_EVERY = 250  # steps
JUDGED = 2000  # held-out pairs
JUDGED_AT_ONCE = 250

FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
REPORT = "report.json"


class TrainingError(Exception):
    """Training can't go on, and why."""


def tokenizer_of(seed: int) -> PreTrainedTokenizerFast:
    """One token a digit, and words as they are said."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=[chr(code) for code in range(33, 127)],
        show_progress=False,
    )
    shown = itertools.islice(pairs(seed, held_out=False), WORDS_SHOWN)
    tokenizer.train_from_iterator((text for pair in shown for text in pair), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LONGEST, **names)


def model_of(vocabulary: int) -> T5ForConditionalGeneration:
    """A T5 of less than a million weights."""
    special: dict[str, Any] = {"pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD}
    config = T5Config(
        vocab_size=vocabulary,
        d_model=128,
        d_kv=32,
        d_ff=192,
        num_layers=3,
        num_heads=4,
        relative_attention_max_distance=LONGEST,
        dropout_rate=0.0,
        **special,
    )
    model = T5ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(max_new_tokens=LONGEST, **special)
    return model


@dataclass
class Run:
    """A training run, at whatever step it is."""

    seed: int = 0
    steps: int = STEPS
    batch: int = BATCH
    step: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.tokenizer = tokenizer_of(self.seed)
        self.model: Any = model_of(len(self.tokenizer))
        self._optimiser = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=0.01)

    @property
    def weights(self) -> int:
        """How many there are."""
        return sum(int(each.numel()) for each in self.model.parameters())

    def advance(self) -> float:
        """One step; returns its loss."""
        chance = random.Random(f"{self.seed} {self.step}")  # noqa: S311 - not for secrets
        some = list(itertools.islice(pairs(chance.getrandbits(32), held_out=False), self.batch))
        self.model.train()
        for group in self._optimiser.param_groups:
            group["lr"] = RATE * self._share()
        ids, mask = self._encoded([source for source, _ in some])
        labels, seen = self._encoded([said for _, said in some])
        loss: Tensor = self.model(input_ids=ids, attention_mask=mask, labels=labels.masked_fill(seen == 0, -100)).loss
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimiser.step()
        self.step += 1
        return float(loss.detach())

    def _share(self) -> float:
        """Of the rate, at this step: a cosine behind the warm-up."""
        if self.step < WARM:
            return (self.step + 1) / WARM
        return 0.5 * (1 + math.cos(math.pi * (self.step - WARM) / max(self.steps - WARM, 1)))

    def _encoded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        given: Any = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        return given["input_ids"], given["attention_mask"]

    @torch.inference_mode()
    def said(self, sources: Sequence[str]) -> list[str]:
        """What the model says of these inputs."""
        self.model.eval()
        ids, mask = self._encoded(sources)
        made = self.model.generate(input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1)
        return list(self.tokenizer.batch_decode(made, skip_special_tokens=True))

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "fingerprint": self._fingerprint,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "losses": self.losses,
        }
        making = path.with_suffix(".making")
        torch.save(state, making)
        making.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, if it is there. Raises: TrainingError when it is another run's."""
        if not path.is_file():
            return
        try:
            state = torch.load(path, weights_only=True)
        except Exception as error:
            raise TrainingError(f"{path} can't be read ({type(error).__name__}); delete it to begin anew.") from None
        if state["fingerprint"] != self._fingerprint:
            raise TrainingError(f"{path} was made by another version or seed; delete it to begin anew.")
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.step, self.losses = state["step"], [tuple(each) for each in state["losses"]]

    @property
    def _fingerprint(self) -> str:
        sizes = {name: list(each.shape) for name, each in self.model.state_dict().items()}
        return json.dumps([self.seed, self.steps, self.batch, RATE, sizes], sort_keys=True)


def train(run: Run, checkpoint: Path, stop: threading.Event) -> Generator[Progress, None, None]:
    """Train to the last step, from the checkpoint where there is one.

    Raises: TrainingError, Stopped; what was done until then is in the checkpoint.
    """
    run.resume(checkpoint)
    while run.step < run.steps:
        if stop.is_set():
            run.save(checkpoint)
            raise Stopped
        loss = run.advance()
        if not math.isfinite(loss):
            raise TrainingError(f"The loss ran away by step {run.step}; try another --seed.")
        if run.step % SAVED_EVERY == 0 or run.step == run.steps:
            run.losses.append((run.step, loss))
            run.save(checkpoint)
        yield Progress("training", run.step, run.steps)


def judge(run: Run, count: int = JUDGED) -> Generator[Progress, None, dict[str, float]]:
    """For each task, the share of held-out inputs that are said without a mistake."""
    some = list(itertools.islice(pairs(run.seed, held_out=True), count))
    right: dict[str, list[bool]] = {task: [] for task in TASKS}
    done = 0
    for batch in _batches(some, JUDGED_AT_ONCE):
        for (source, wanted), said in zip(batch, run.said([source for source, _ in batch]), strict=True):
            task = next(task for task, prefix in TASKS.items() if source.startswith(prefix))
            right[task].append(said == wanted)
        done += len(batch)
        yield Progress("judging what was held out", done, count)
    return {task: sum(each) / len(each) for task, each in right.items() if each}


def _batches(some: Sequence[Pair], size: int) -> Iterator[Sequence[Pair]]:
    return (some[at : at + size] for at in range(0, len(some), size))


def write(run: Run, folder: Path, result: dict[str, float]) -> None:
    """The model as transformers saves it, and what it can."""
    run.model.save_pretrained(folder)
    run.tokenizer.save_pretrained(folder)
    about = {
        "recipe": f"loquent train tasks --seed {run.seed}",
        "weights": run.weights,
        "steps": run.steps,
        "texts of a step": run.batch,
        "exact matches of held-out inputs": result,
        "losses": run.losses,
    }
    (folder / REPORT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
