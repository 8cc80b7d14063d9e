"""The goals: each figure of the other benches beside its own, and how many fall short.

Run last by ``make bench``; reads what the other benches wrote into the folder of results.
"""

import sys

from bench import results
from bench.verdicts import Goal, closing, each, one, over_the_best, quotient

OURS = "Loquent, websocket"
PEERS = ("llama.cpp server, SSE", "OpenVINO GenAI, bare websocket", "vLLM CPU, SSE")
PEER_SERVERS = ("llama.cpp server", "OpenVINO GenAI", "vLLM CPU")
LEVELS = (1, 4, 16, 32)
TO_CHAT = "stages/ratio/all, as shipped/{}/"
LONG = f"streams/{OURS}/long/"
TINY, SMALL, LARGE = "smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"
X, MS, S, KIB = " ×", " ms", " s", " KiB"

# Single figures, by their path, which a bench also shows beside its own.
SINGLE = {
    "startup/median": ("a start, the model in the cache", "≤", 5.0, S, 2),
    "upstream/added": ("a gateway before the model's server adds to the first token", "≤", 8, MS, 1),
    "upstream/share": ("throughput of 32 streams through a gateway, of the direct", "≥", 97, " %", 1),
    "speech/factor": ("speech: real-time factor", "≤", 0.06, "", 3),
    "speech/first": ("speech: first sound after the first sentence's last token", "≤", 100, MS, 0),
    "speech/beside": ("speech: between tokens of another reply, p99, to alone", "≤", 1.5, X, 2),
    "speech/underruns": ("speech: underruns of 8 sessions", "≤", 0, "", 0),
    "speech/cancel": ("speech: from a cancel to the last sound, p95", "≤", 60, MS, 0),
    "written/share": ("written forms spoken as people say them", "≥", 97, " %", 1),
    "listening/english": ("heard: wrong words, English", "≤", 6, " %", 1),
    "listening/german": ("heard: wrong words, German", "≤", 12, " %", 1),
    "listening/spanish": ("heard: wrong words, Spanish", "≤", 12, " %", 1),
    "listening/french": ("heard: wrong words, French", "≤", 12, " %", 1),
    "listening/babble": ("heard: wrong words, English, in babble of 10 dB", "≤", 15, " %", 1),
    "listening/street": ("heard: wrong words, English, in street noise of 10 dB", "≤", 15, " %", 1),
    "listening/cutoffs": ("pauses inside a sentence taken for its end, semantic_vad", "≤", 25, " %", 1),
    "listening/interrupting": ("speech that means it interrupts", "≥", 100, " %", 0),
    "listening/soon": ("interruptions within 250 ms of what means it", "≥", 100, " %", 0),
    "listening/disturbed": ("of 50 coughs, agreements and noises, interrupt", "≤", 2, "", 0),
    "listening/ghosts": ("turns in 30 minutes of noise, music and babble", "≤", 0, "", 0),
    "listening/echo": ("of 20 replies, interrupted by their own echo", "≤", 0, "", 0),
    "listening/first": ("end of speech to first sound, server_vad, p50", "≤", 800, MS, 0),
    "listening/first95": ("end of speech to first sound, server_vad, p95", "≤", 1300, MS, 0),
    "listening/semantic": ("end of speech to first sound, semantic_vad, p50", "≤", 600, MS, 0),
    "listening/four": ("end of speech to first sound, 4 sessions, p95", "≤", 2000, MS, 0),
    "listening/underruns": ("underruns of 4 sessions that listen and speak", "≤", 0, "", 0),
    "listening/beside": ("between texts beside a session that talks, p99, to alone", "≤", 1.5, X, 2),
    "anomaly/short": ("screening a short message, p95", "≤", 20, MS, 1),
    "anomaly/long": ("screening a long message, p95", "≤", 90, MS, 1),
    "anomaly/late": ("the event loop beside screening, p99, later by", "≤", 5, MS, 1),
    "seq2seq/ratio": ("T5-small, 16 streams: tokens/s to generate's in one batch", "≥", 3.0, X, 2),
    "image/drawn": ("prompt to PNG, p95", "≤", 40, MS, 1),
    "image/beside": ("between tokens beside two pictures a second, p99, to alone", "≤", 1.2, X, 2),
    "image/late": ("the event loop beside pictures, p99, later by", "≤", 5, MS, 1),
}

GOALS = {
    path: Goal(measure, one(path), compared, (bound,), unit, decimals)
    for path, (measure, compared, bound, unit, decimals) in SINGLE.items()
}

WHOLE = (
    Goal("shipped to chat alone: tokens/s at 1/4/16/32", each(TO_CHAT + "tokens", LEVELS), "≥", (0.93,), X),
    Goal("shipped to chat alone: first token p95", each(TO_CHAT + "first95", LEVELS), "≤", (1.25,), X),
    Goal("shipped to chat alone: between texts p99", each(TO_CHAT + "gap99", LEVELS), "≤", (1.3,), X),
    Goal(
        "shipped to the best peer: tokens/s at 1/4/16/32",
        over_the_best("streams/{}/closed/{}/tokens", LEVELS, OURS, PEERS), "≥", (1.5,), X,
    ),
    Goal(
        "beside a busy process: share of the own speed alone at 4/16",
        each("company/share/Loquent/{}/tokens", (4, 16)), "≥", (0.4,), X,
    ),
    Goal(
        "beside a busy process: tokens/s to the best peer's at 4/16",
        over_the_best("company/beside/{}/{}/tokens", (4, 16), "Loquent", PEER_SERVERS), ">", (1.0,), X,
    ),
    Goal(
        "first token p95 of 32 clients, to vLLM's",
        quotient(f"streams/{OURS}/closed/32/first95", "streams/vLLM CPU, SSE/closed/32/first95"), "≤", (1.0,), X,
    ),
    Goal("a long prompt among 8 streams: the others' p99, to without", one(LONG + "ratio"), "≤", (1.5,), X),
    Goal("a long prompt among 8 streams: its first token", one(LONG + "first"), "≤", (800,), MS, 0),
    Goal("a long prompt alone: its first token", one(LONG + "alone"), "≤", (400,), MS, 0),
    Goal("memory a request, websocket", one(f"streams/{OURS}/memory/grown"), "≤", (1,), KIB),
    Goal("memory a request, SSE", one("streams/Loquent, SSE/memory/grown"), "≤", (1,), KIB),
    Goal("0.5B: first start", one(f"sizes/first/{SMALL}/start"), "≤", (12,), S, 1),
    Goal("0.5B: a later start", one(f"sizes/later/{SMALL}/start"), "≤", (5,), S, 1),
    Goal("0.5B: peak memory, to file + written KV", one(f"sizes/own/{SMALL}/whole_peak"), "≤", (1.5,), X),
    Goal("0.5B: steady memory, to file + written KV", one(f"sizes/own/{SMALL}/whole_steady"), "≤", (1.2,), X),
    Goal("0.5B: the model's own part of the peak", one(f"sizes/own/{SMALL}/peak"), "≤", (1.5,), X),
    Goal("0.5B: the model's own part of the steady memory", one(f"sizes/own/{SMALL}/steady"), "≤", (1.2,), X),
    *(
        Goal(
            f"{size} to llama.cpp's server, tokens/s at 1/4/16",
            each(f"sizes/ratio/{model}/{{}}/tokens", (1, 4, 16)), "≥", (1.5, 2.0, 4.5), X,
        )
        for size, model in (("0.5B", SMALL), ("1.5B", LARGE))
    ),
    *(
        Goal(
            f"{size}: perplexity to llama.cpp's on the same file",
            one(f"agreement/{model}/perplexity"), "≤", (1.01,), X, 3,
        )
        for size, model in (("135M", TINY), ("0.5B", SMALL))
    ),
    *(
        Goal(
            f"{size}: greedy as in float32, beyond llama.cpp",
            one(f"agreement/{model}/greedy", 100), "≥", (-1.0,), " %", 1,
        )
        for size, model in (("135M", TINY), ("0.5B", SMALL))
    ),
)  # fmt: skip


def stated(path: str) -> str:
    """The goal of a single figure, in words."""
    return GOALS[path].stated


def main() -> None:
    """Judge, and print."""
    found = results.read()
    if not found.figures:
        sys.exit(f"There are no figures in {results.FOLDER}: run make bench.")
    verdicts = [goal.judge(found.figures) for goal in (*WHOLE, *GOALS.values())]
    table = results.table(["measure", "figure", "goal", ""], [verdict.row for verdict in verdicts])
    when = f"figures of {found.times[0]} to {found.times[-1]}"
    parts = ", ".join(f"{name} {seconds} s" for name, seconds in found.seconds.items())
    took = f"The benches took {sum(found.seconds.values()) / 60:.0f} minutes: {parts}."
    text = f"# Goals\n\n{results.head('goals', when)}\n\n{table}\n{took}\n\n{closing(verdicts)}\n"
    (results.FOLDER / "goals.md").write_text(text)
    sys.stdout.write(f"\n{text}")


if __name__ == "__main__":
    main()
