"""What a program on two ranks sees, for package.py to compare: `mpirun -n 2 python3 two_ranks.py MODEL FOLDER` writes FOLDER/0 and FOLDER/1."""

import json
import pathlib
import sys
import threading

import bloomery

MODEL, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
PROMPT = "It is a truth"
seen = {}


def error(call):
    try:
        call()
    except bloomery.Error as failure:
        return [type(failure).__name__, str(failure)]
    return None


seen["one of two"] = error(lambda: bloomery.load(MODEL))
model = bloomery.load(MODEL, dtype="f32", tensor_parallel_degree=2)


def text(**options):
    return model.generate(PROMPT, max_new_tokens=16, **options).text


seen["many"] = [one.text for one in model.generate([PROMPT, "The sea", "A"], max_new_tokens=12)]
seen["beams"] = [one.text for one in model.generate(PROMPT, max_new_tokens=16, num_beams=3, num_return_sequences=2).sequences]
seen["sampled"] = text(do_sample=True, temperature=0.8, top_p=0.9, seed=7)
seen["unseeded"] = text(do_sample=True, temperature=1.5)
seen["seeds"] = text(do_sample=True, temperature=0.8, top_p=0.9, seed=7 + model.rank)
seen["none"] = model.generate([])

seen["stream"] = [str(piece) for piece in model.stream(PROMPT, max_new_tokens=16)]
left = model.stream(PROMPT, max_new_tokens=400)
seen["left"] = [str(next(left)) for _ in range(3 - model.rank)][:2]
left.close()
opened = model.stream(PROMPT, max_new_tokens=16)
first = str(next(opened))
seen["between"] = text()
seen["resumed"] = first + "".join(map(str, opened))

seen["logits"] = model.logits([5, 6, 7, 8])[:, :50].tolist()
seen["pipeline"] = bloomery.pipeline(model)(PROMPT, max_new_tokens=5)
second = bloomery.init_inference(MODEL, mp_size=2, dtype="float32")
seen["second"] = second.module.generate([[5, 6, 7]], max_new_tokens=4).tolist()

same = []
threads = [threading.Thread(target=lambda: same.append(text())) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
seen["threads"] = same

seen["bad option"] = error(lambda: text(top_k="many"))
seen["bad prompt"] = error(lambda: model.generate([object()]))
seen["one's bad option"] = error(lambda: text(top_k="many" if model.rank == 1 else 5))
seen["different"] = error(lambda: text(top_k=4 + model.rank))
seen["bad tokens"] = error(lambda: model.logits([10**7] if model.rank == 0 else [1]))
seen["too long"] = error(lambda: model.generate(PROMPT, max_new_tokens=10**6))
seen["after"] = text()

if model.rank == 0:
    seen["alone"] = [text(), error(lambda: text(top_k="many")), model.logits([5, 6])[:, :50].tolist(), text()]
else:
    model.follow()
model.close()
seen["closed"] = error(lambda: text())
(FOLDER / str(model.rank)).write_text(json.dumps(seen))
