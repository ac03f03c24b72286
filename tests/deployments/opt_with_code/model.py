# The OPT-30B notebook's handler of 2022, with `import bloomery` where it imports deepspeed: rank 0 copies the weights from S3 to a
# directory and writes DONE, the model is loaded at the first call, text comes in and a pipeline's list goes out.
import os
import pathlib
import time

import boto3
import bloomery
from djl_python import Input, Output

predictor = None


def download(bucket, prefix, folder):
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "DONE").exists():
        return
    s3 = boto3.client("s3")
    for item in s3.list_objects_v2(Bucket=bucket, Prefix=prefix + "/")["Contents"]:
        s3.download_file(bucket, item["Key"], str(folder / item["Key"].rpartition("/")[2]))
    (folder / "DONE").touch()


def get_model(properties):
    folder = pathlib.Path(os.environ["MODEL_FOLDER"])
    if os.getenv("LOCAL_RANK", "0") == "0":
        download(os.environ["MODEL_S3_BUCKET"], os.environ["MODEL_S3_PREFIX"], folder)
    while not (folder / "DONE").exists():
        time.sleep(0.02)
    model = bloomery.init_inference(str(folder), mp_size=int(properties["tensor_parallel_degree"]), dtype="fp32", replace_with_kernel_inject=True)
    return bloomery.pipeline(model)


def handle(inputs: Input):
    global predictor
    if not predictor:
        predictor = get_model(inputs.get_properties())
    if inputs.is_empty():
        return None  # the warm-up
    return Output().add_as_json(predictor(inputs.get_as_string(), max_new_tokens=12, do_sample=False))
