"""``loquent train``."""

from argparse import ArgumentParser, Namespace

from server.commands.failure import Exit, Failure

HELP = "Train the anomaly detector, the generator of pictures, or a small model that says numbers and dates."
EPILOG = (
    'Example: loquent train anomaly --normal my_messages.jsonl, with one {"text": "a normal message"} per line, 500 or '
    "more. Without --normal the bundled detector is trained again, which takes a quarter of an hour. "
    "loquent train image trains the bundled generator again, which takes two hours on two cores, and "
    "loquent train tasks a small T5 that says numbers and dates in words, which takes a few minutes. Stopped, the same "
    "command resumes."
)
FOREIGN = {
    "anomaly": ("preset", "minutes"),
    "image": ("normal", "narrow", "alpha"),
    "tasks": ("normal", "narrow", "alpha", "preset", "minutes"),
}  # options that only the others have


def add_options(parser: ArgumentParser) -> None:
    """What to train, the data, and the output folder."""
    parser.add_argument("what", choices=("anomaly", "image", "tasks"))
    parser.add_argument("--normal", metavar="FILE", help="your assistant's normal messages, JSON lines")
    parser.add_argument("--narrow", action="store_true", help="the assistant has one topic; other topics are anomalies")
    parser.add_argument("--alpha", type=float, metavar="A", help="rate of false alarms to allow (0.01)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same result (0)")
    parser.add_argument(
        "--preset",
        choices=("mood", "full"),
        help="what is drawn: faces and hearts, or far more (mood)",
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="how long to train pictures in this run (to the end)"
    )
    parser.add_argument("--out", metavar="FOLDER", help="output folder (detector, generator, or tasks)")


def run(asked: Namespace) -> int:
    """Train, measure and report. Raises: Failure."""
    from server.commands.train_anomaly import Training, train_anomaly
    from server.commands.train_image import ImageTraining, train_image
    from server.commands.train_tasks import train_tasks

    if not 0 <= asked.seed < 2**31:
        raise Failure(Exit.USAGE, f"--seed is a number from 0 to 2147483647; {asked.seed} is none.")
    for name in FOREIGN[asked.what]:
        value = getattr(asked, name)
        if value is not None and value is not False:  # 0 counts as given
            raise Failure(Exit.USAGE, f"--{name} means nothing to `loquent train {asked.what}`.")
    if asked.what == "image":
        training = ImageTraining(asked.preset or "mood", asked.out or "generator", asked.seed, asked.minutes)
        return Exit.INTERRUPTED if train_image(training) else Exit.OK
    if asked.what == "tasks":
        return Exit.INTERRUPTED if train_tasks(asked.out or "tasks", asked.seed) else Exit.OK
    alpha = 0.01 if asked.alpha is None else asked.alpha
    train_anomaly(Training(asked.normal, asked.out or "detector", asked.narrow, alpha, asked.seed))
    return Exit.OK
