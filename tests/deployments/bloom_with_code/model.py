# The BLOOM notebook's handler of March 2023, with `import bloomery` where it imports deepspeed: where option.s3url was downloaded to is in
# properties["model_id"]; {"inputs", "parameters"} in, {"outputs"} out.
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
    return Output().add_as_json({"outputs": [one.text for one in model.generate(data["inputs"], **data["parameters"])]})
