# The BLOOM notebook's handler of December 2022, with `import bloomery` where it imports deepspeed and transformers: several clients' requests in
# one call, each {"input": text or texts, "gen_kwargs", "padding"}; a JSON list of texts for each of them.
import json

import bloomery
from djl_python import Input, Output

model = None


def load_model(properties):
    return bloomery.load(properties["model_id"], dtype="fp32", tensor_parallel_degree=int(properties["tensor_parallel_degree"]))


def handle(inputs: Input):
    global model
    if not model:
        model = load_model(inputs.get_properties())
    if inputs.is_empty():
        return None
    bodies = [item.get_as_json() for item in inputs.get_batches()]
    texts = [body["input"] if isinstance(body["input"], list) else [body["input"]] for body in bodies]
    alike = {}  # requests that ask for the same are computed together
    for i, body in enumerate(bodies):
        alike.setdefault(json.dumps(body.get("gen_kwargs", {}), sort_keys=True), []).append(i)
    outputs = Output()
    outputs.add_property("X-Batch-Size", len(bodies))
    for arguments, indices in alike.items():
        answers = iter(model.generate([text for i in indices for text in texts[i]], **json.loads(arguments)))
        for i in indices:
            outputs.add_as_json([text + next(answers).text for text in texts[i]], key="data", batch_index=i)
    return outputs
