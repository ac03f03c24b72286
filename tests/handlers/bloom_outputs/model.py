# In the manner of the BLOOM example of March 2023: options from the properties, {"inputs", "parameters"} in, {"outputs"} out.
from djl_python import Input, Output

model = None


def load_model(properties):
    place = properties.get("model_id", properties["model_dir"])
    degree = int(properties["tensor_parallel_degree"])
    assert place and degree > 0
    return lambda text, parameters: text + " " + " ".join(f"{key}={value}" for key, value in sorted(parameters.items()))


def run_inference(inputs):
    data = inputs.get_as_json()
    return Output().add_as_json({"outputs": [model(text, data["parameters"]) for text in data["inputs"]]})


def handle(inputs: Input):
    global model
    if not model:
        model = load_model(inputs.get_properties())
    if inputs.is_empty():
        return None
    return run_inference(inputs)
