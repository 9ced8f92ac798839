"""A vLLM plugin: LoRA on a CPU at a multiple of vLLM's own speed. It runs inside vLLM's processes, never in ours.

vLLM finds it by the entry point `vllm.general_plugins` and calls `register` in each of its processes. On anything but
a CPU nothing changes. VLLM_PLUGINS="" leaves it out.
"""


def register() -> None:
    """Give the CPU platform our LoRA layer arithmetic; safe to call again."""
    from vllm.platforms import current_platform  # noqa: PLC0415  vLLM is still being imported when it loads plugins

    if current_platform.is_cpu():
        type(current_platform).get_punica_wrapper = classmethod(lambda _: "flywheel_vllm.cpu_lora.GroupedLora")
