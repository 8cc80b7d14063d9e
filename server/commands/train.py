"""``loquent train``."""

from argparse import ArgumentParser, Namespace

from server.commands.failure import Exit, Failure

HELP = "Train the anomaly detector, or the generator of pictures."
EPILOG = (
    'Example: loquent train anomaly --normal my_messages.jsonl, with a {"text": "a normal message"} a line; 500 '
    "of them and more. Without --normal the bundled detector is made again, which takes a quarter of an hour. "
    "loquent train image makes the bundled generator again, which takes two hours of two cores; stopped, the same "
    "command goes on where it was."
)
FOREIGN = {"anomaly": ("preset", "minutes"), "image": ("normal", "narrow", "alpha")}  # options of the other one


def add_options(parser: ArgumentParser) -> None:
    """What to train, on what, and where the result goes."""
    parser.add_argument("what", choices=("anomaly", "image"))
    parser.add_argument("--normal", metavar="FILE", help="your assistant's normal messages, JSON lines")
    parser.add_argument(
        "--narrow", action="store_true", help="the assistant has one topic; what is off it is not normal"
    )
    parser.add_argument("--alpha", type=float, metavar="A", help="share of false alarms to allow (0.01)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same result (0)")
    parser.add_argument(
        "--preset",
        choices=("mood", "full"),
        help="what is drawn: faces, hearts and what goes with them, or far more (mood)",
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="how long to train pictures now (to the end)")
    parser.add_argument("--out", metavar="FOLDER", help="where it goes (detector, or generator)")


def run(asked: Namespace) -> int:
    """Train, measure and report. Raises: Failure."""
    from server.commands.train_anomaly import Training, train_anomaly
    from server.commands.train_image import ImageTraining, train_image

    if not 0 <= asked.seed < 2**31:
        raise Failure(Exit.USAGE, f"--seed is a number from 0 to 2147483647; {asked.seed} is none.")
    for name in FOREIGN[asked.what]:
        value = getattr(asked, name)
        if value is not None and value is not False:  # 0 is an option that was given
            raise Failure(Exit.USAGE, f"--{name} means nothing to `loquent train {asked.what}`.")
    if asked.what == "image":
        training = ImageTraining(asked.preset or "mood", asked.out or "generator", asked.seed, asked.minutes)
        return Exit.INTERRUPTED if train_image(training) else Exit.OK
    alpha = 0.01 if asked.alpha is None else asked.alpha
    train_anomaly(Training(asked.normal, asked.out or "detector", asked.narrow, alpha, asked.seed))
    return Exit.OK
