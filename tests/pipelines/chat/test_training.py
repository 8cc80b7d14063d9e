"""The small model that says numbers and dates: its data, a few steps of its training, and the command."""

import datetime
import itertools
import threading
from pathlib import Path

import pytest
import torch

from pipelines.chat.model.load import load
from pipelines.chat.model.seq2seq import EncoderDecoder
from pipelines.chat.settings import ChatSettings
from pipelines.chat.training import train
from pipelines.chat.training.spelling import LARGEST, TASKS, cardinal, ordinal, pairs, spoken, year
from pipelines.downloads.progress import Stopped, finish


def test_numbers_and_dates_are_written_as_people_say_them() -> None:
    numbers = {0: "zero", 13: "thirteen", 40: "forty", 101: "one hundred and one", 7_012: "seven thousand and twelve"}
    assert {value: cardinal(value) for value in numbers} == numbers
    assert cardinal(LARGEST).count("nine") == 6
    assert [ordinal(day) for day in (1, 2, 3, 5, 8, 9, 12, 20, 30, 31)] == [
        "first",
        "second",
        "third",
        "fifth",
        "eighth",
        "ninth",
        "twelfth",
        "twentieth",
        "thirtieth",
        "thirty-first",
    ]
    years = {1900: "nineteen hundred", 1907: "nineteen oh seven", 2000: "two thousand", 2009: "two thousand and nine"}
    assert {value: year(value) for value in years} == years
    assert spoken(datetime.date(2026, 3, 23)) == "the twenty-third of march twenty twenty-six"


def test_what_is_held_out_is_never_trained_on() -> None:
    trained = {said for _, said in itertools.islice(pairs(0, held_out=False), 20_000)}
    judged = {said for _, said in itertools.islice(pairs(1, held_out=True), 2_000)}
    assert not trained & judged


def test_a_resumed_run_is_the_same_as_one_without_a_stop(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole, stopped = (train.Run(3, steps=4, batch=8) for _ in range(2))
    finish(train.train(whole, tmp_path / "whole.pt", threading.Event()))
    stop = threading.Event()
    steps = train.train(stopped, tmp_path / "part.pt", stop)
    next(steps)
    stop.set()
    with pytest.raises(Stopped):
        finish(steps)
    resumed = train.Run(3, steps=4, batch=8)
    finish(train.train(resumed, tmp_path / "part.pt", threading.Event()))
    assert resumed.step == 4
    for mine, its in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(mine, its)
    with pytest.raises(train.TrainingError, match="another version or seed"):
        finish(train.train(train.Run(4, steps=4, batch=8), tmp_path / "part.pt", threading.Event()))


def test_what_was_trained_is_served_and_says_what_it_says_in_training(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    run = train.Run(0, steps=30, batch=16)
    finish(train.train(run, tmp_path / "run.pt", threading.Event()))
    result = finish(train.judge(run, 10))
    assert set(result) == set(TASKS)
    folder = tmp_path / "model"
    train.write(run, folder, result)
    assert {path.name for path in folder.iterdir()} == {*train.FILES, train.REPORT}
    settings = {"model": str(folder), "dtype": "float32", "threads": 1, "streams": 1, "tasks": TASKS}
    model = load(folder, ChatSettings.model_validate(settings))
    assert isinstance(model, EncoderDecoder)
    assert model.parameters < 1_000_000
    prompt, _ = model.tokenizer.encode("23 March 2026", "date", cut=False)
    assert prompt == [*run.tokenizer("date: 23 March 2026")["input_ids"], train.PAD]
