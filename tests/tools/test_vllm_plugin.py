"""The LoRA arithmetic that vLLM loads from us, against a plain loop over tokens; in a process of its own, as vLLM's."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json
import torch
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_selector import get_punica_wrapper

torch.manual_seed(0)
slots, rank, inputs, widths = 3, 4, 6, (5, 2)
A = tuple(torch.randn(slots, 1, rank, inputs) for _ in widths)
B = tuple(torch.randn(slots, 1, width, rank) for width in widths)
wrapper = get_punica_wrapper(64, max_batches=8, device="cpu", max_loras=slots)
found = {"wrapper": type(wrapper).__name__}
for name, ids in {"mixed": (7, 0, 9, 7, 0), "one": (9, 9), "none": (0, 0, 0)}.items():
    for is_prefill in (True, False):
        wrapper.update_metadata(LoRAMapping(ids, ids, is_prefill=is_prefill), [7, None, 9], slots, 100)
        x, y = torch.randn(len(ids), inputs), torch.randn(len(ids), sum(widths))
        expected = y.clone()
        for row, id in enumerate(ids):
            if id:
                slot = {7: 0, 9: 2}[id]
                expected[row] += 0.5 * torch.cat([b[slot, 0] @ (a[slot, 0] @ x[row]) for a, b in zip(A, B)])
        wrapper.add_lora_linear(y, x, A, B, 0.5, widths)
        found[f"{name} {is_prefill}"] = float((y - expected).abs().max())
print(json.dumps(found))
"""


def test_each_row_gets_its_own_adapter_and_a_row_without_one_stays_as_it_is() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("wrapper") == "GroupedLora"
    assert len(found) == 6
    assert max(found.values()) < 1e-5
