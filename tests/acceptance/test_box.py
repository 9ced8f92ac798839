"""The appliance as compose.yaml runs it, without containers: PostgreSQL, a Chroma server, a process for each part.

The base model is another one than the starter: a tiny random Llama with a tokenizer and a chat template of its own,
named by the one setting `base_model`. What it says is nonsense; that it says it through every part is the point.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import psycopg
import pytest

from flywheel.local_key import local_key
from flywheel.parts import appliance_parts
from flywheel.processes import Part, Supervisor
from flywheel.settings import Settings

CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] | upper }}] {{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[ASSISTANT] {% endif %}"
)
MAKE_LLAMA = """
import sys, torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
folder, template = sys.argv[1:]
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
words = ["the cat sat on the mat and asked the desk for help with an order"] * 50
trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet)
bpe.train_from_iterator(words, trainer)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", pad_token="<pad>", chat_template=template)
torch.manual_seed(0)
config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=256, max_position_embeddings=2048,
    eos_token_id=1, pad_token_id=0, bos_token_id=None)
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
tokenizer.save_pretrained(folder)
"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    subprocess.run(
        [sys.executable, "-c", MAKE_LLAMA, str(folder), CHAT_TEMPLATE], check=True, capture_output=True, timeout=120
    )
    return folder


@pytest.fixture(scope="module")
def box(
    llama: Path, postgresql_url: str, tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]]
) -> Iterator[Settings]:
    home = tmp_path_factory.mktemp("box")
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE box")
    engine, serving, dashboard, chroma = free_ports(4)
    variables = {
        "FLYWHEEL_HOME": str(home),
        "FLYWHEEL_BASE_MODEL": str(llama),
        "FLYWHEEL_DATABASE_URL": postgresql_url.removesuffix("postgres") + "box",
        "FLYWHEEL_ENGINE__URLS": json.dumps([f"http://127.0.0.1:{engine}"]),
        "FLYWHEEL_SERVING__PORT": str(serving),
        "FLYWHEEL_DASHBOARD__PORT": str(dashboard),
        "FLYWHEEL_RAG__CHROMA_URL": f"http://127.0.0.1:{chroma}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        settings = Settings()
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--host", "127.0.0.1", "--port", str(chroma)]
        store = Part(
            "chroma", [*command, "--path", str(home / "vectors")], f"http://127.0.0.1:{chroma}", "/api/v2/heartbeat"
        )
        with Supervisor([store, *appliance_parts(settings)], logs=home / "logs") as supervisor:
            supervisor.start()
            supervisor.wait_until_healthy()
            yield settings


@pytest.fixture(scope="module")
def key(box: Settings) -> Iterator[str]:
    with local_key(box) as found:
        yield found


@pytest.fixture
def client(box: Settings, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{box.api_url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def api(box: Settings, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=box.api_url, headers={"authorization": f"Bearer {key}"}, timeout=60) as found:
        yield found


@pytest.mark.timeout(400)
def test_another_base_model_answers_with_its_own_tokenizer_and_template(client: openai.OpenAI) -> None:
    question = "the cat sat on the mat"
    done = client.chat.completions.create(
        model="flywheel-plain", messages=[{"role": "user", "content": question}], max_tokens=8, temperature=0
    )
    assert done.system_fingerprint is not None
    assert done.system_fingerprint.startswith("identity-")
    assert done.usage is not None
    # "[USER] the cat sat on the mat</s>[ASSISTANT] " by this model's own tokenizer; the starter's would make far fewer.
    assert 20 <= done.usage.prompt_tokens <= 40
    assert done.usage.completion_tokens >= 1


def test_documents_live_in_the_chroma_server_and_ground_answers(
    box: Settings, api: httpx.Client, client: openai.OpenAI
) -> None:
    text = "# Orders\n\n## Returns\n\nThe desk takes orders back for thirty days.\n"
    added = api.post("/v1/documents", json={"title": "Orders", "text": text}, timeout=60)
    assert added.json()["chunks"] == 1
    done = client.chat.completions.create(
        model="flywheel",
        messages=[{"role": "user", "content": "For how many days does the desk take orders back?"}],
        max_tokens=8,
    )
    kept = api.get(f"/v1/interactions/{done.id}").json()
    assert kept["route"] == "knowledge"
    assert kept["passages"][0]["document"] == "Orders"
    assert not (box.home / "chroma").exists()


def test_records_live_in_postgresql(box: Settings, api: httpx.Client, client: openai.OpenAI) -> None:
    done = client.chat.completions.create(
        model="flywheel-plain", messages=[{"role": "user", "content": "help"}], max_tokens=4, user="ann"
    )
    rated = api.post("/v1/feedback", json={"completion_id": done.id, "value": 4, "user": "ann"})
    assert rated.status_code == 200
    kept = api.get(f"/v1/interactions/{done.id}").json()
    assert kept["status"] == "finished"
    assert kept["feedback"][0]["score"] == 0.75
    assert not (box.home / "flywheel.db").exists()


def test_worker_takes_a_run_and_says_what_is_missing(api: httpx.Client) -> None:
    run = api.post("/v1/runs", json={"requested_by": "ann"}).json()
    give_up = time.monotonic() + 60
    while run["state"] in ("queued", "running") and time.monotonic() < give_up:
        time.sleep(0.5)
        run = api.get(f"/v1/runs/{run['id']}").json()
    assert run["state"] == "failed"
    assert "pairs" in run["error"]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from flywheel.cli import app; app()", *words, "--json"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=60,
        check=False,
    )


def test_status_and_doctor_read_the_running_appliance(box: Settings) -> None:
    for name in ("status", "doctor"):
        done = command(name)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)


def test_audit_is_whole_and_a_head_kept_elsewhere_is_looked_for(box: Settings) -> None:
    whole = command("audit", "verify")
    head = json.loads(whole.stdout)["head"]
    assert (whole.returncode, command("audit", "verify", "--head", head).returncode) == (0, 0)
    cut = command("audit", "verify", "--head", "0" * 64)
    assert cut.returncode == 1
    assert json.loads(cut.stdout)["first_broken_position"] == json.loads(cut.stdout)["entries"] + 1
    assert len(json.loads(command("audit").stdout)) > 0
