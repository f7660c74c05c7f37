"""The work on an archive shared out by Ray Data: the same function on the same recordings, the same results.

Each of Ray's workers holds the model and writes the results of its recordings itself; only outcomes travel.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch

from weigher.errors import RequestError, WeigherError
from weigher.recordings.archive_files import Job, Outcome, Source, apply_one
from weigher.recordings.diarizer import Diarizer

_BLOCKS_PER_WORKER = 50  # recordings are handed out in so many portions: a slow one then holds up few others


class _Worker:
    """One of Ray's actors, with the model in memory."""

    def __init__(self, job: Job, sources: Sequence[Source]) -> None:
        torch.set_num_threads(1)  # Ray gives each actor one core
        self.job, self.sources = job, sources
        self.diarizer = Diarizer.from_pretrained(job.model, device=job.device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        index = int(row["index"])
        try:
            outcome = apply_one(self.diarizer, self.job, self.sources[index])
        except WeigherError as error:  # raised here, Ray would wrap it and try again
            return {"index": index, "outcome": json.dumps({"stop": str(error)})}
        # as JSON, for a file name in the reason may hold bytes that are no text, which Arrow refuses
        told = {"status": outcome.status, "people": outcome.people, "reason": outcome.reason}
        return {"index": index, "outcome": json.dumps(told)}


def through_ray(job: Job, sources: Sequence[Source], workers: int) -> Iterator[Outcome]:
    """Yield the outcomes as they come.

    Raises RequestError without the [ray] extra, WeigherError where the work cannot go on.
    """
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise RequestError("Ray shares the work out; run: pip install 'weigher[ray]'") from error
    if not sources:
        return
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers otherwise
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        rows = [{"index": index} for index in range(len(sources))]
        blocks = min(len(rows), _BLOCKS_PER_WORKER * workers)
        found = ray.data.from_items(rows, override_num_blocks=blocks).map(
            cast(Any, _Worker),  # a class is what actors are made of; the signature of `map` only tells of functions
            fn_constructor_kwargs={"job": job, "sources": list(sources)},
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=1,
            num_gpus=1 if job.device.startswith("cuda") else None,
        )
        for row in found.iter_rows():
            told = json.loads(row["outcome"])
            if "stop" in told:
                raise WeigherError(told["stop"])
            yield Outcome(sources[row["index"]], **told)
    except ray.exceptions.RayError as error:
        raise WeigherError(f"Ray could not go on: {error}; what is finished is kept: run again") from error
    finally:
        if ours:
            ray.shutdown()
