"""Where a reply's sampling comes from: the request, the configuration, the model, the engine."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.chat.defaults import ENGINE, of_model, resolved
from pipelines.chat.settings import ChatSettings
from pipelines.events import Sampling


def folder_with(folder: Path, config: object) -> Path:
    (folder / "generation_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
            {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
        ),
        ({"do_sample": False, "temperature": 0.7, "top_k": 20}, {"temperature": 0.0, "top_k": 20}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"temperature": 0.6, "min_p": 0.1}, {"temperature": 0.6, "min_p": 0.1}),
        ({"eos_token_id": 2, "temperature": None}, {}),
        ({"temperature": -3}, {}),
        ("no JSON", {}),
    ],
)
def test_a_models_defaults_are_those_of_its_generation_config(
    tmp_path: Path, config: object, expected: dict[str, Any]
) -> None:
    given = of_model(str(tmp_path), folder_with(tmp_path, config))
    assert given == Sampling(**{"temperature": 0.0, "top_p": 1.0} | expected)


def test_a_generation_config_that_is_not_used_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    of_model(str(tmp_path), folder_with(tmp_path, {"temperature": "warm"}))
    assert "generation_config.json is not used" in caplog.text


def test_without_a_generation_config_the_engines_defaults_hold(tmp_path: Path) -> None:
    assert of_model(str(tmp_path), tmp_path) == ENGINE == Sampling(temperature=0.0, top_p=1.0)


def test_a_bundled_models_defaults_are_the_catalogues(tmp_path: Path) -> None:
    given = of_model("smollm2-135m-instruct", folder_with(tmp_path, {"temperature": 0.9}))
    assert given.temperature == 0.0
    assert given.repetition_penalty is not None
    assert given.repetition_penalty > 1.0
    assert given.repetition_prompt is False


def test_the_request_goes_before_the_configuration_and_that_before_the_model() -> None:
    model = Sampling(temperature=0.1, top_p=0.1, top_k=1, min_p=0.1, repetition_penalty=1.1, repetition_prompt=False)
    settings = ChatSettings(temperature=0.2, top_p=0.2, repetition_penalty=1.2, repetition_prompt=True)
    asked = Sampling(temperature=0.3, repetition_penalty=1.0, max_tokens=5, stop=("END",), presence_penalty=0.5)
    assert resolved(asked, settings, model) == Sampling(
        temperature=0.3,
        top_p=0.2,
        top_k=1,
        min_p=0.1,
        repetition_penalty=1.0,
        repetition_prompt=True,
        max_tokens=5,
        stop=("END",),
        presence_penalty=0.5,
    )
    assert resolved(Sampling(), ChatSettings(), model) == model


def test_zero_is_a_value_and_not_the_lack_of_one() -> None:
    model = Sampling(temperature=0.9, top_p=0.9, top_k=20, min_p=0.1)
    given = resolved(Sampling(temperature=0.0, top_k=0, min_p=0.0), ChatSettings(), model)
    assert (given.temperature, given.top_p, given.top_k, given.min_p) == (0.0, 0.9, 0, 0.0)
    given = resolved(Sampling(), ChatSettings(temperature=0, top_k=0, min_p=0), model)
    assert (given.temperature, given.top_k, given.min_p) == (0.0, 0, 0.0)
