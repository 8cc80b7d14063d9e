"""How a model draws tokens when nobody says: what its makers chose, or what was measured for a bundled one."""

import logging
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.chat.settings import ChatSettings, MinP, RepetitionPenalty, Temperature, TopK, TopP
from pipelines.downloads.catalogue import PACKAGES
from pipelines.events import Sampling

log = logging.getLogger(__name__)

FILE = "generation_config.json"
NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "repetition_prompt")
ENGINE = Sampling(temperature=0.0, top_p=1.0)  # where neither the model nor the configuration says


class _GenerationConfig(BaseModel):
    """What the file may say about drawing; the rest of it means nothing here."""

    model_config = ConfigDict(extra="ignore")

    do_sample: bool | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None


def of_model(name: str, folder: Path) -> Sampling:
    """The defaults of the model that ``[chat] model`` names: the catalogue's, else those of its generation config.

    A model that is not to sample (``do_sample: false``) is greedy, whatever else the file says.
    """
    if name in PACKAGES:
        return over(PACKAGES[name].sampling, ENGINE)
    path = folder / FILE
    if not path.is_file():
        return ENGINE
    try:
        config = _GenerationConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        log.warning("the model's %s is not used: %s", FILE, error)
        return ENGINE
    drawing = {key: value for key, value in config if value is not None and key != "do_sample"}
    if config.do_sample is False:
        drawing["temperature"] = 0.0
    elif config.do_sample:
        drawing.setdefault("temperature", 1.0)
    return over(Sampling(**drawing), ENGINE)


def resolved(asked: Sampling, settings: ChatSettings, model: Sampling) -> Sampling:
    """What the request says, else the configuration, else the model."""
    configured = {name: value for name in NAMES if (value := getattr(settings, name)) != "model"}
    return over(asked, over(Sampling(**configured), model))


def over(above: Sampling, below: Sampling) -> Sampling:
    """The first one, and how to draw by the second where the first does not say."""
    missing = {name: getattr(below, name) for name in NAMES if getattr(above, name) is None}
    return replace(above, **missing)
