"""How fast frames of the rendered benchmark are made: one CPU core, or a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch

from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig

SIZES = {"cpu": (64, 128), "cuda": (128,)}
BATCH = {"cpu": 64, "cuda": 1024}
ROUNDS = {"cpu": 9, "cuda": 30}


def rendered_frames(device: str) -> Iterator[dict[str, object]]:
    """One row per image size: frames a second with everything that is known of them, on one core of a CPU.

    Each frame of a batch is of another clip, as in training; their takes are drawn before the time is taken, as they
    are only once in an epoch.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for side in SIZES[device]:
            benchmark = RenderedBenchmark(RenderedConfig(size=side), "train")
            clips = [number % len(benchmark) for number in range(BATCH[device])]
            start = time.perf_counter()
            for clip in set(clips):
                benchmark.take(clip)
            drawing = (time.perf_counter() - start) / len(set(clips))
            speeds = []
            for attempt in range(ROUNDS[device] + 2):
                frames = [(7 * clip + attempt) % benchmark.config.frames for clip in clips]
                start = time.perf_counter()
                benchmark.render(clips, frames, device=device)
                if device == "cuda":
                    torch.cuda.synchronize()
                if attempt >= 2:
                    speeds.append(len(clips) / (time.perf_counter() - start))
            yield {
                "size": [side, side],
                "batch": len(clips),
                "threads": 1,
                "frames_per_second": round(statistics.median(speeds), 1),
                "slowest": round(min(speeds), 1),
                "fastest": round(max(speeds), 1),
                "take_ms": round(1000 * drawing, 2),
            }
    finally:
        torch.set_num_threads(threads)
