"""What Prometheus scrapes: counts and totals from the store, so that every replica of the API answers the same."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from serve.store import JobStore
from serve.store.tables import SECONDS_BUCKETS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class StoreCollector:
    """The store as Prometheus metrics."""

    def __init__(self, store: JobStore, num_engines: int) -> None:
        self._store = store
        self._num_engines = num_engines

    def collect(self) -> Iterable[Metric]:
        counts, totals = self._store.counts(), self._store.totals()
        yield GaugeMetricFamily("longvie_queue_depth", "Jobs that wait.", counts["queued"])
        jobs = GaugeMetricFamily("longvie_jobs", "Jobs by state.", labels=["state"])
        for state, count in counts.items():
            jobs.add_metric([state], count)
        yield jobs
        yield GaugeMetricFamily("longvie_engines", "Engines with their model loaded.", self._num_engines)
        ended = CounterMetricFamily("longvie_jobs_events", "What happened to jobs.", labels=["event"])
        for event in ("created", "completed", "failed", "cancelled", "deleted", "taken_over"):
            ended.add_metric([event], totals[f"jobs_{event}"])
        yield ended
        for what, counted in (("segment", "segments"), ("step", "steps")):
            buckets, sofar = [], 0.0
            for bucket in SECONDS_BUCKETS:
                sofar += totals[f"{what}_seconds_{bucket:g}"]
                buckets.append((f"{float(bucket)}", sofar))
            buckets.append(("+Inf", totals[counted]))
            yield HistogramMetricFamily(
                f"longvie_{what}_seconds", f"Time of a {what}.", buckets=buckets, sum_value=totals[f"{what}_seconds"]
            )
        yield CounterMetricFamily("longvie_gpu_seconds", "Time of segments made on GPUs.", totals["gpu_seconds"])
        yield CounterMetricFamily("longvie_written_bytes", "Segments, carries and videos.", totals["bytes"])


def exposition(store: JobStore, num_engines: int) -> bytes:
    registry = CollectorRegistry()
    registry.register(StoreCollector(store, num_engines))
    return generate_latest(registry)
