"""The openai client and lm-evaluation-harness against a server on the demo model. Expectations come from demo/golden.json (transformers)."""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

import openai

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from serving import ROOT, Server  # noqa: E402

MODEL = "bloomery-demo"
GOLDEN = json.loads((ROOT / "demo/golden.json").read_text(encoding="utf-8"))


def openai_client(server, key):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0)
    assert [model.id for model in client.models.list()] == [MODEL]
    greedy = [case for case in GOLDEN["cases"] if "num_beams" not in case["params"]]
    for case in greedy:
        arguments = dict(model=MODEL, prompt=case["prompt"], max_tokens=64, temperature=0)
        answer = client.completions.create(**arguments)
        assert answer.choices[0].text == case["text"], (answer.choices[0].text, case["text"])
        assert answer.usage.prompt_tokens == len(case["prompt_ids"]) and answer.usage.completion_tokens == len(case["ids"])
        stream = client.completions.create(**arguments, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == case["text"]
        assert chunks[-1].usage.completion_tokens == len(case["ids"])
    several = client.completions.create(model=MODEL, prompt=[case["prompt"] for case in greedy[:3]], max_tokens=8, temperature=0, echo=True)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert all(choice.text.startswith(case["prompt"]) for choice, case in zip(several.choices, greedy))
    sampled = [client.completions.create(model=MODEL, prompt="Emma", max_tokens=20, n=3, seed=5, logprobs=2) for _ in range(2)]
    assert [c.text for c in sampled[0].choices] == [c.text for c in sampled[1].choices], "a seed repeats the texts"
    assert len({choice.text for choice in sampled[0].choices}) > 1
    assert len(sampled[0].choices[0].logprobs.tokens) == 20
    chat = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "How is Emma?"}], max_tokens=12, temperature=0)
    assert chat.choices[0].message.role == "assistant" and chat.choices[0].message.content
    parts = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "How is Emma?"}], max_tokens=12, temperature=0, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == chat.choices[0].message.content
    for wrong, expected in (({"model": "other"}, openai.NotFoundError), ({"max_tokens": -1}, openai.BadRequestError)):
        try:
            client.completions.create(**{"model": MODEL, "prompt": "x", **wrong})
        except expected:
            continue
        raise AssertionError(f"{wrong} was accepted")
    try:
        openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0).models.list()
        raise AssertionError("a wrong key was accepted")
    except openai.AuthenticationError:
        pass
    print(f"openai {openai.__version__}: {len(greedy)} golden texts whole and streamed, batches, sampling, chat, errors")


def lm_eval(server, key):
    """A word-perplexity and a multiple-choice task over held-out text, both scored through echo and logprobs."""
    texts = json.loads((ROOT / "demo/heldout.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        lines = [{"text": text[:600]} for text in texts]
        (folder / "pages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        choices = [{"start": text[:200], "right": text[200:240], "wrong": text[240:280][::-1]} for text in texts]
        (folder / "choices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in choices))
        common = "dataset_path: json\ntest_split: test\n"
        (folder / "pages.yaml").write_text(
            f"task: pages\n{common}dataset_kwargs:\n  data_files:\n    test: {folder}/pages.jsonl\noutput_type: loglikelihood_rolling\n"
            'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list:\n  - metric: word_perplexity\n'
        )
        (folder / "choices.yaml").write_text(
            f"task: choices\n{common}dataset_kwargs:\n  data_files:\n    test: {folder}/choices.jsonl\noutput_type: multiple_choice\n"
            'doc_to_text: "{{start}}"\ndoc_to_choice: ["{{right}}", "{{wrong}}"]\ndoc_to_target: 0\ntarget_delimiter: ""\nmetric_list:\n  - metric: acc\n'
        )
        arguments = f"model={MODEL},base_url={server.url}/v1/completions,tokenizer={ROOT}/demo/model,tokenizer_backend=huggingface"
        command = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--tasks", "pages,choices", "--include_path", str(folder),
                   "--model_args", arguments + ",num_concurrent=4,max_length=512,max_retries=1", "--output_path", str(folder / "out")]  # fmt: skip
        environment = {**os.environ, "OPENAI_API_KEY": key, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "TOKENIZERS_PARALLELISM": "false"}
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr + "".join(server.log[-20:])
        results = json.loads(next((folder / "out").rglob("results*.json")).read_text())["results"]
    perplexity, accuracy = results["pages"]["word_perplexity,none"], results["choices"]["acc,none"]
    # A word is about 1.3 tokens; a harness that read garbage would be orders of magnitude away.
    assert GOLDEN["perplexity"] < perplexity < GOLDEN["perplexity"] ** 2 and math.isfinite(perplexity), perplexity
    assert accuracy >= 0.8, accuracy
    print(f"lm-evaluation-harness: word perplexity {perplexity:.1f}, {accuracy:.0%} of the continuations told from reversed text")


with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
    keys.write("# the test's key\nsk-demo-key\n")
    keys.flush()
    with Server("--dtype", "f32", "--api-key-file", keys.name) as server:
        openai_client(server, "sk-demo-key")
        lm_eval(server, "sk-demo-key")
        assert server.stop() == 0
