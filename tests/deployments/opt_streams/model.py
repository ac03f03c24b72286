# Pieces of text as they come: what a handler does with this engine's streams.
import bloomery
from djl_python import Input, Output

model = None


def handle(inputs: Input):
    global model
    if not model:
        properties = inputs.get_properties()
        model = bloomery.load(properties["model_id"], dtype="fp32", tensor_parallel_degree=int(properties["tensor_parallel_degree"]))
    if inputs.is_empty():
        return None
    data = inputs.get_as_json()
    return Output().add_stream_content(piece.text for piece in model.stream(data["inputs"], **data["parameters"]))
