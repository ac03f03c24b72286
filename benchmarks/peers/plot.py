"""The plot of a summary: for each shape, tokens/s by batch and the share of the memory-bandwidth limit."""

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

# A colour an engine, a shade a dtype.
COLOURS = {"bloomery": "Reds", "bloomery-tp2": "Oranges", "bloomery-pp2": "Purples", "transformers": "Greys", "ctranslate2": "Greens", "llamacpp": "Blues"}


def draw(rows, results, file):
    plt.rcParams["svg.hashsalt"] = "peers"  # the same figures give the same file
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    figure, axes = plt.subplots(len(shapes), 2, figsize=(12, 4.2 * len(shapes)), squeeze=False, layout="constrained")
    for (speed, limit), shape in zip(axes, shapes):
        mine = [row for row in rows if row["shape"] == shape]
        bars(speed, mine, "tokens_per_s", "{:.3g}", spread=True)
        speed.set(title=f"{shape}: {results['prompt']} prompt + {results['new']} new tokens", ylabel="tokens/s")
        bars(limit, [row for row in mine if row["bandwidth_share"] is not None], "bandwidth_share", "{:.0%}", spread=False)
        limit.axhline(1, color="black", linewidth=0.8, linestyle="--")
        limit.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
        limit.set(title=f"{shape}: share of the bandwidth limit in decoding")
        speed.legend(fontsize="small")
    figure.suptitle(f"{results['machine']['cpu']}, {results['threads']} threads, commit {results['commit']}", fontsize="medium")
    figure.savefig(file, metadata={"Date": None})


def bars(axis, rows, key, label, spread):
    """Groups of bars, a group a batch, a bar an engine and dtype; whiskers from the slowest to the fastest round."""
    batches = sorted({row["batch"] for row in rows})
    kinds = list(dict.fromkeys((row["engine"], row["dtype"]) for row in rows))
    width = 0.85 / max(len(kinds), 1)
    for number, (engine, dtype) in enumerate(kinds):
        mine = {row["batch"]: row for row in rows if (row["engine"], row["dtype"]) == (engine, dtype)}
        siblings = [other for name, other in kinds if name == engine]
        colour = plt.get_cmap(COLOURS[engine])(0.85 - 0.4 * siblings.index(dtype) / len(siblings))
        places = [batches.index(batch) + (number - (len(kinds) - 1) / 2) * width for batch in mine]
        values = [row[key] for row in mine.values()]
        errors = [[row[key] - row["slowest"] for row in mine.values()], [row["fastest"] - row[key] for row in mine.values()]] if spread else None
        drawn = axis.bar(places, values, width, yerr=errors, color=colour, label=f"{engine} {dtype}", error_kw={"linewidth": 0.7})
        axis.bar_label(drawn, [label.format(value) for value in values], fontsize=6, padding=2)
    axis.set_xticks(range(len(batches)), [f"batch {batch}" for batch in batches])
    axis.spines[["top", "right"]].set_visible(False)
