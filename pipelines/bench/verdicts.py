"""What a paired difference says of a paper's finding, in one word and one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longvie.metrics.catalogue import metric_of
from pipelines.bench.ablations import Expected

AS_FOUND, NOT_SHOWN, CONTRADICTED, COSTS = "as in the paper", "not shown", "contradicts the paper", "costs"


def judge(expected: Expected, metric: str, differences: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the first metric of an ablation says of one row against the full method.

    `worse`: the paper found the row worse. It is as in the paper where the interval of the difference lies on that side
    of zero, contradicts it where it lies on the other, and is not shown where the interval holds zero. `close`: the
    paper found little; where the interval lies on the worse side, the row costs that much, else it is as in the paper.
    """
    found = differences.get(metric)
    title = metric_of(metric).title
    if found is None or found["difference"]["low"] is None:
        return {"word": NOT_SHOWN, "why": f"{title}: too few videos for an interval", "metric": metric}
    mean, low, high = (found["difference"][name] for name in ("mean", "low", "high"))
    sign = 1 if metric_of(metric).better == "higher" else -1
    worst, best = sorted((sign * low, sign * high))
    said = f"{title}: {mean:+.3g} [{low:+.3g}, {high:+.3g}], {found['difference']['num_videos']} videos"
    if best < 0:
        word = AS_FOUND if expected == "worse" else COSTS
    elif worst > 0:
        word = CONTRADICTED if expected == "worse" else AS_FOUND
    else:
        word = NOT_SHOWN if expected == "worse" else AS_FOUND
    return {"word": word, "why": said, "metric": metric}
