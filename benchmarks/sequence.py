"""Sequence models: every row a ratio (or an exponent) measured in one run against the peer that it names.

Run: ``python benchmarks/sequence.py [lightning] [mom] [liger] [ultramem]``, all by default; on a CPU one thread. On a
GPU the rows that need one are added.
"""

from __future__ import annotations

import sys
from importlib import import_module

PARTS = ("lightning", "mom", "liger", "ultramem")


def main() -> None:
    chosen = sys.argv[1:] or PARTS
    for part in chosen:
        if part not in PARTS:
            sys.exit(f"{part}: not one of {', '.join(PARTS)}")
        print(f"{part}:", flush=True)
        for label, value, bound in import_module(f"_sequence_{part}").rows():
            print(f"  {label:72} {value:9.3f}  {bound}", flush=True)


if __name__ == "__main__":
    main()
