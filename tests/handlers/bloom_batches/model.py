# In the manner of the BLOOM example of December 2022: several clients' requests in one call, each with one text or a list of them.
from djl_python import Input, Output

model = None


def load_model(properties):
    assert properties["model_dir"]
    return lambda texts, suffix: [text + suffix for text in texts]


def handle(inputs: Input) -> Output:
    global model
    if not model:
        model = load_model(inputs.get_properties())
    if inputs.is_empty():
        return None
    outputs = Output()
    batch = inputs.get_batches()
    for i, item in enumerate(batch):
        body = item.get_as_json()
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        suffix = "!" * body.get("gen_kwargs", {}).get("max_new_tokens", 1)
        outputs.add_as_json(model(texts, suffix), key="data", batch_index=i)
    outputs.add_property("X-Batch-Size", len(batch))
    return outputs
