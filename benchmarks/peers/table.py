#!/usr/bin/env python3
"""JSON rows of one shape from standard input as lines with the ratio to the PyTorch row."""

import json
import sys

rows = [json.loads(line) for line in sys.stdin]
peer = next(row["tokens_per_s"] for row in rows if "torch" in row["library"])
for row in rows:
    share = ""
    if "bandwidth_share" in row:
        share = f"{row['bandwidth_share']:4.0%} of {row['memory_bandwidth_bytes_per_s'] / 1e9:.1f} GB/s, {row['decode_tokens_per_s']:.1f} tokens/s decoding"
    print(f"{row['model']:<10} {row['library']:<34} {row['precision']:<8} P50 {row['p50_ms']:7.0f} ms  {row['tokens_per_s']:6.1f} tokens/s  "
          f"{row['tokens_per_s'] / peer:5.1f}x  {share}")  # fmt: skip
