"""What the server counts, in Prometheus' form and under the field's names."""

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from pipelines.anomaly.calibrate import HEADS
from pipelines.anomaly.stage import AnomalyStage
from pipelines.anomaly.verdict import Action, Verdict
from pipelines.build import Pipeline
from pipelines.events import AudioDelta, Event, Finished, StageError, TextDelta, Turn
from pipelines.flow import Stage
from pipelines.image.stage import ImageStage
from pipelines.speech.stage import SpeechStage

Keep = Callable[[str, str, Callable[[], float]], None]

P_VALUES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
LATENCIES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 5.0, 10.0, 30.0)


class _Counted(Collector):
    """A counter that somebody else keeps."""

    def __init__(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._name, self._text, self._value = name, text, value

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._text, value=self._value())


class _ByLabel(Collector):
    """Counters that somebody else keeps, one a label."""

    def __init__(self, name: str, text: str, label: str, values: Mapping[str, int]) -> None:
        self._name, self._text, self._label, self._values = name, text, label, values

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._text, labels=[self._label])
        for label, value in self._values.items():
            family.add_metric([label], value)
        yield family


class Metrics:
    """The counters of one server."""

    def __init__(self, pipeline: Pipeline, connections: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        engine = pipeline.engine

        def gauge(name: str, text: str, value: Callable[[], float]) -> None:
            Gauge(name, text, registry=self._registry).set_function(value)

        gauge("loquent_ready", "1 while turns are taken.", lambda: float(pipeline.ready))
        gauge("loquent_connections", "Open realtime websockets.", connections)
        gauge("loquent_requests_running", "Requests that generate.", lambda: engine.running)
        gauge("loquent_requests_waiting", "Requests that wait for a place.", lambda: engine.queued)
        gauge(
            "loquent_engine_restarts",
            "Times that the model's worker died and was restarted.",
            lambda: engine.restarts,
        )
        gauge("loquent_kv_tokens", "Tokens in the slots of requests in progress.", lambda: engine.held_tokens)

        def counter(name: str, text: str, value: Callable[[], float]) -> None:
            self._registry.register(_Counted(name, text, value))

        counter("loquent_engine_steps", "Passes over the weights.", lambda: engine.steps)
        counter("loquent_prompt_tokens_computed", "Tokens of prompts that were read.", lambda: engine.read_tokens)
        counter("loquent_prefix_cache_tokens", "Tokens of prompts found in a slot.", lambda: engine.reused_tokens)
        counter("loquent_prefix_cache_hits", "Requests that found some of their prompt.", lambda: engine.reuses)
        counter("loquent_refusals", "Requests for which there was no place.", lambda: engine.refusals)
        counter("loquent_aborted", "Requests that were cancelled, or whose reader left.", lambda: engine.aborted)
        self._turns = Counter("loquent_turns", "Turns, by how they ended.", ["outcome"], registry=self._registry)
        self._prompt = Counter("loquent_prompt_tokens", "Tokens of prompts.", registry=self._registry)
        self._generated = Counter("loquent_generation_tokens", "Tokens generated.", registry=self._registry)
        self._ttft = Histogram(
            "loquent_time_to_first_token_seconds",
            "From the turn to its first text.",
            buckets=LATENCIES,
            registry=self._registry,
        )
        self._itl = Histogram(
            "loquent_inter_token_latency_seconds",
            "Between texts, for each token.",
            buckets=LATENCIES,
            registry=self._registry,
        )
        self._ttfa = Histogram(
            "loquent_time_to_first_audio_seconds",
            "From the turn to its first sound.",
            buckets=LATENCIES,
            registry=self._registry,
        )
        if pipeline.speech is not None:
            self._speech(pipeline.speech, gauge, counter)
        if pipeline.anomaly is not None:
            self._anomaly(pipeline.anomaly, gauge, counter)
        if pipeline.image is not None:
            self._image(pipeline.image, gauge, counter)
        self.rejected = Counter("loquent_rejected", "Requests refused at the door.", ["code"], registry=self._registry)
        self.dropped = Counter("loquent_dropped", "Clients dropped for not reading.", registry=self._registry)

    @staticmethod
    def _speech(speech: SpeechStage, gauge: Keep, counter: Keep) -> None:
        workers = speech.workers
        gauge("loquent_speech_speaking", "Replies that are being spoken.", lambda: speech.speaking)
        gauge("loquent_speech_queue", "Sentences in the making.", lambda: workers.waiting)
        gauge(
            "loquent_speech_real_time_factor",
            "Seconds of computing for a second of sound, since the start.",
            lambda: workers.busy_seconds / workers.spoken_seconds if workers.spoken_seconds else 0.0,
        )
        counter("loquent_speech_busy_seconds", "Computing sound.", lambda: workers.busy_seconds)
        counter("loquent_speech_audio_seconds", "Sound computed.", lambda: workers.spoken_seconds)
        counter("loquent_speech_underruns", "Times that a listener had to wait for more.", lambda: speech.underruns)

    def _anomaly(self, anomaly: AnomalyStage, gauge: Keep, counter: Keep) -> None:
        texts = Counter(
            "loquent_anomaly_texts", "Texts screened, by what follows.", ["action"], registry=self._registry
        )
        causes = Counter("loquent_anomaly_causes", "What found something.", ["cause"], registry=self._registry)
        p_values = Histogram(
            "loquent_anomaly_p_value", "P-values, by head.", ["head"], buckets=P_VALUES, registry=self._registry
        )
        took = Histogram(
            "loquent_anomaly_seconds", "From a text to its verdict.", buckets=LATENCIES, registry=self._registry
        )

        def verdict(found: Verdict, action: Action, seconds: float) -> None:
            texts.labels(action).inc()
            took.observe(seconds)
            for cause in found.causes:
                causes.labels(cause).inc()
            for each in found.judgements:
                p_values.labels(each.head).observe(each.p_value)

        anomaly.on_verdict = verdict
        gauge("loquent_anomaly_ready", "1 while texts are screened.", lambda: float(anomaly.ready))
        gauge("loquent_anomaly_alpha", "The share of false alarms that is allowed.", lambda: anomaly.settings.alpha)
        gauge("loquent_anomaly_flag_rate", "Of recent texts, found by a head.", lambda: anomaly.flag_rate)
        drift = Gauge(
            "loquent_anomaly_drift",
            "Of recent p-values from uniform ones: Kolmogorov-Smirnov.",
            ["head"],
            registry=self._registry,
        )
        for head in HEADS:
            drift.labels(head).set_function(partial(anomaly.drift, head))
        counter("loquent_anomaly_failures", "Texts without a verdict.", lambda: anomaly.failures.total())

    def _image(self, image: ImageStage, gauge: Keep, counter: Keep) -> None:
        painter = image.painter
        took = Histogram(
            "loquent_image_seconds", "From a caption to its pictures.", buckets=LATENCIES, registry=self._registry
        )
        image.on_picture = took.observe
        gauge("loquent_image_ready", "1 while pictures are drawn.", lambda: float(image.ready))
        gauge("loquent_image_queue", "Pictures that wait to be drawn.", lambda: painter.waiting)
        counter("loquent_images", "Pictures drawn.", lambda: painter.drawn)
        self._registry.register(
            _ByLabel("loquent_image_turns", "Turns that wanted a picture.", "outcome", image.outcomes)
        )

    def text(self, clock: Callable[[], float] = time.monotonic) -> Stage:
        """A stage behind the model, that measures the text as it is made."""

        async def measured(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
            last, first, spoken = clock(), True, False
            async for event in events:
                match event:
                    case Turn(speech=speech):
                        last, spoken = clock(), speech is not None
                    case TextDelta(tokens=tokens) if tokens:
                        now = clock()
                        if first:
                            self._ttft.observe(now - last)
                        elif not spoken:  # the text of such a reply is taken as it is said, not as it is made
                            self._itl.observe((now - last) / max(tokens, 1))
                        last, first = now, False
                    case Finished(_, usage):
                        self._prompt.inc(usage.input_tokens)
                        self._generated.inc(usage.output_tokens)
                yield event

        return measured

    def turn(self, clock: Callable[[], float] = time.monotonic) -> Stage:
        """The last stage, that measures the whole turn."""

        async def measured(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
            outcome = "cancelled"  # unless the stream says otherwise before it is closed
            begun, silent = clock(), True
            try:
                async for event in events:
                    match event:
                        case Turn():
                            begun = clock()
                        case AudioDelta(pcm) if pcm and silent:
                            silent = False
                            self._ttfa.observe(clock() - begun)
                        case Finished(reason):
                            outcome = reason
                    yield event
            except StageError as error:
                outcome = error.code
                raise
            except Exception:
                outcome = "internal_error"
                raise
            finally:
                self._turns.labels(outcome).inc()

        return measured

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
