#!/usr/bin/env python3
"""Table (peers.md) and plot (peers.svg) of a peers.json, beside it. usage: report.py peers.json"""

import json
import pathlib
import sys
from statistics import median

BITS = {"f32": 32, "bf16": 16, "f16": 16, "int8": 8, "q8_0": 8, "int4": 4, "q4_0": 4}
BASELINE = ("bloomery", "int8")


def grouped(results, kind):
    """{(shape, engine, dtype, batch): samples of that kind} in the order of the first round."""
    groups = {}
    for sample in results["samples"]:
        if sample["kind"] == kind:
            groups.setdefault((sample["shape"], sample["engine"], sample["dtype"], sample.get("batch", 1)), []).append(sample)
    return groups


def memory_bandwidth(results):
    """Median of what bloomery bench measured between the runs, in bytes/s; None when it did not run."""
    found = [sample["notes"].get("memory_bandwidth_bytes_per_s") for sample in results["samples"]]
    found = [value for value in found if value]
    return median(found) if found else None


def summarise(results):
    """Rows of generating, medians over rounds."""
    bandwidth, new = memory_bandwidth(results), results["new"]
    rows = []
    for (shape, engine, dtype, batch), samples in grouped(results, "generated").items():
        speeds = [batch * new / sample["total_s"] for sample in samples]
        decode_s = median(sample["total_s"] - sample["first_token_s"] for sample in samples)
        steps_per_s = (new - 1) / decode_s if new > 1 and decode_s > 0 else 0
        weight_bytes = samples[-1]["weight_bytes_per_step"]
        rows.append({"shape": shape, "engine": engine, "dtype": dtype, "batch": batch, "rounds": len(samples),
                     "tokens_per_s": median(speeds), "slowest": min(speeds), "fastest": max(speeds),
                     "decode_tokens_per_s": batch * steps_per_s, "weight_bytes_per_step": weight_bytes,
                     "bandwidth_share": steps_per_s * weight_bytes / bandwidth if bandwidth else None})  # fmt: skip
    return with_ratios(rows, "tokens_per_s")


def summarise_prefill(results):
    """Rows of prefill, medians over rounds."""
    rows = []
    for (shape, engine, dtype, batch), samples in grouped(results, "prefilled").items():
        speed = median(sample["tokens"] / sample["total_s"] for sample in samples)
        rows.append({"shape": shape, "engine": engine, "dtype": dtype, "batch": batch, "rounds": len(samples), "prefill_tokens_per_s": speed})
    return with_ratios(rows, "prefill_tokens_per_s")


def with_ratios(rows, key):
    """Adds how many times as fast as each row bloomery is at the same shape and batch: in int8, and with weights of as many bits."""
    for row in rows:
        ours = [other for other in rows if other["engine"] == "bloomery" and (other["shape"], other["batch"]) == (row["shape"], row["batch"])]
        int8 = [other[key] for other in ours if other["dtype"] == "int8"]
        twin = [other[key] for other in ours if BITS[other["dtype"]] == BITS[row["dtype"]]]
        row["bloomery_int8_ratio"] = int8[0] / row[key] if int8 else None
        row["bloomery_same_bits_ratio"] = twin[0] / row[key] if twin else None
    return rows


def times(value):
    return "–" if value is None else f"{value:.2f}×"


def table(columns, rows):
    """columns: {title: (row -> text)}; titles of text columns end with a space."""
    lines = ["| " + " | ".join(title.strip() for title in columns) + " |"]
    lines.append("|" + "|".join("---" if title.endswith(" ") else "---:" for title in columns) + "|")
    return lines + ["| " + " | ".join(text(row) for text in columns.values()) + " |" for row in rows]


WHO = {"engine ": lambda row: row["engine"], "weights ": lambda row: row["dtype"], "rounds": lambda row: str(row["rounds"])}
RATIOS = {"bloomery int8 ÷": lambda row: times(row["bloomery_int8_ratio"]),
          "bloomery same bits ÷": lambda row: times(row["bloomery_same_bits_ratio"])}  # fmt: skip
GENERATING = {"batch": lambda row: str(row["batch"]), **WHO, "tokens/s": lambda row: f"{row['tokens_per_s']:.1f}",
              "slowest–fastest": lambda row: f"{row['slowest']:.1f}–{row['fastest']:.1f}",
              "decode tokens/s": lambda row: f"{row['decode_tokens_per_s']:.1f}",
              "bandwidth": lambda row: "–" if row["bandwidth_share"] is None else f"{row['bandwidth_share']:.0%}", **RATIOS}  # fmt: skip
PREFILL = {**WHO, "tokens/s": lambda row: f"{row['prefill_tokens_per_s']:.0f}", **RATIOS}


def heading(results):
    machine, bandwidth = results["machine"], memory_bandwidth(results)
    facts = [machine["cpu"], f"{results['threads']} threads", f"{machine['memory_bytes'] / 2**30:.0f} GiB"]
    if bandwidth:
        facts.append(f"memory reads {bandwidth / 1e9:.1f} GB/s")
    versions = ", ".join(version if name in version else f"{name} {version}" for name, version in sorted(results["versions"].items()))
    return [f"{', '.join(facts)}. Prompt {results['prompt']} tokens, {results['new']} new; medians of alternating rounds.",
            f"Commit {results['commit']}, {results['started']}, load before {machine['load_before']:.2f}. {versions}.", "",
            f"`{results['command']}`", "",
            "*bloomery … ÷*: its tokens/s over the row's, with int8 weights and with weights of as many bits as the row's.",
            "*bandwidth*: weight bytes of a step × decode steps/s, over what memory delivers."]  # fmt: skip


def markdown(results, rows, prefill):
    lines = heading(results)
    for shape in dict.fromkeys(row["shape"] for row in [*rows, *prefill]):
        lines += ["", f"### {shape}"]
        mine = sorted((row for row in rows if row["shape"] == shape), key=lambda row: row["batch"])
        if mine:
            lines += ["", *table(GENERATING, mine)]
        mine = [row for row in prefill if row["shape"] == shape]
        if mine:
            lines += ["", f"Prefill of {results['prefill']} tokens:", "", *table(PREFILL, mine)]
    if results["skipped"]:
        lines += ["", "Skipped:", ""]
        lines += [f"- {' '.join(filter(None, (s['shape'], s['engine'], s['dtype'])))}: {s['reason']}" for s in results["skipped"]]
    return "\n".join(lines) + "\n"


def main():
    file = pathlib.Path(sys.argv[1])
    results = json.loads(file.read_text(encoding="utf-8"))
    rows, prefill = summarise(results), summarise_prefill(results)
    results.update(summary=rows, prefill_summary=prefill, memory_bandwidth_bytes_per_s=memory_bandwidth(results))
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = markdown(results, rows, prefill)
    file.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    try:
        from plot import draw
    except ImportError as error:
        print(f"SKIPPED the plot: {error}")
        return
    if rows:
        draw(rows, results, file.with_suffix(".svg"))


if __name__ == "__main__":
    main()
