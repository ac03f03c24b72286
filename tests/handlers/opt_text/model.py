# In the manner of the OPT-30B example of 2022: the weights are fetched by rank 0 before anything else, the model is loaded at the first call, text comes
# in and a pipeline's list goes out. A word count stands where DeepSpeed would generate.
import os
import pathlib
import time

from djl_python import Input, Output

generator = None


def fetch_model(folder):
    """Rank 0 fetches, the others wait for it to be done."""
    folder = pathlib.Path(folder)
    if int(os.getenv("LOCAL_RANK", "0")) == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "words").write_text("wonderful")
        (folder / "DONE").touch()
    while not (folder / "DONE").exists():
        time.sleep(0.01)
    return folder


def get_model(properties):
    degree = int(properties["tensor_parallel_degree"])
    assert degree == int(os.getenv("WORLD_SIZE", "1")), degree
    word = (fetch_model(os.environ["MODEL_FOLDER"]) / "words").read_text()
    return lambda text: [{"generated_text": f"{text} {word} ({len(text.split())} words, {degree} ranks)"}]


def handle(inputs: Input) -> Output:
    global generator
    if not generator:
        generator = get_model(inputs.get_properties())
    if inputs.is_empty():
        return None  # the warm-up
    data = inputs.get_as_string()
    print("generating")
    return Output().add_as_json(generator(data))
