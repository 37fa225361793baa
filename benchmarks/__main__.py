"""``make bench``: every ratio that the README quotes, and what attaching costs, as JSON, one object a line."""

from __future__ import annotations

import json

from benchmarks import adaptation, attach, training_step


def main() -> None:
    for size, batch, seconds in (("tiny", 8, 4.0), ("base", 2, 6.0)):
        result = training_step.measure(size, "dynamic", batch, seconds, runs=15)
        print(json.dumps({"benchmark": "training step, with pathways over dense", **result}), flush=True)
    print(json.dumps({"benchmark": "adaptation", **adaptation.measure(layers=25, sparsity=0.7, runs=5)}), flush=True)
    print(json.dumps({"benchmark": "attaching", **attach.measure(24, 912, "magnitude")}), flush=True)


if __name__ == "__main__":
    main()
