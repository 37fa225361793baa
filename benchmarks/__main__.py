"""``make bench``: every ratio that the README quotes, as JSON, one object a line."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import adaptation, attach, faster_training, kernels, training_step


def main() -> None:
    for size, batch, seconds in (("tiny", 8, 4.0), ("base", 2, 6.0)):
        result = training_step.measure(size, "dynamic", batch, seconds, runs=15)
        print(json.dumps({"benchmark": "training step, with pathways over dense", **result}), flush=True)
    faster = faster_training.measure(Path("models/tiny"), rounds=15)
    print(json.dumps({"benchmark": "training step, fused AdamW and bfloat16", **faster}), flush=True)
    print(json.dumps({"benchmark": "adaptation", **adaptation.measure(layers=25, sparsity=0.7, runs=5)}), flush=True)
    print(json.dumps({"benchmark": "attaching", **attach.in_a_fresh_process()}), flush=True)
    few = kernels.measure(("512x2048", "2048x512"), (1, 16), (0.7,))
    for result in few if kernels.available() else ():
        print(json.dumps({"benchmark": "sparse kernels", **result}), flush=True)


if __name__ == "__main__":
    main()
