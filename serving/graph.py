"""The routed turn as a LangGraph: classify ─→ knowledge | small_talk | refuse ─→ answer. It only wires.

`classify` finds out what the question wants and which passages are nearest; the three routes differ in nothing but the
prompt, rendered in the wording of who answers, and of who answers beside them; `answer` asks the engine and streams its
bytes through LangGraph's writer. The graph keeps nothing between turns: a conversation's earlier turns come with the
request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from flywheel.interactions import Passage
from flywheel.messages import Message
from serving import prompts
from serving.appliance import Appliance
from serving.prompts import Compose
from serving.router import question_of
from serving.stream import speak
from serving.turn import Turn


class State(TypedDict, total=False):
    messages: list[Message]
    route: str
    passages: list[Passage]
    prompt: list[Message]
    other_prompt: list[Message] | None


@dataclass
class Context:
    appliance: Appliance
    turn: Turn


async def classify(state: State, runtime: Runtime[Context]) -> State:
    appliance = runtime.context.appliance
    router = appliance.ready_router()
    library = appliance.library
    if library is None:
        library = await asyncio.to_thread(appliance.ready_library)
    decision = await asyncio.to_thread(router.decide, library, question_of(state["messages"]))
    turn = runtime.context.turn
    turn.intent, turn.index_version, turn.router_version = decision.intent, library.index_version, router.version
    return {"route": decision.route, "passages": decision.passages}


def knowledge(state: State, runtime: Runtime[Context]) -> State:
    return _composed(prompts.knowledge_prompt, state, runtime)


def small_talk(state: State, runtime: Runtime[Context]) -> State:
    return _composed(prompts.small_talk_prompt, state, runtime) | {"passages": []}


def refuse(state: State, runtime: Runtime[Context]) -> State:
    return _composed(prompts.refuse_prompt, state, runtime) | {"passages": []}


def _composed(compose: Compose, state: State, runtime: Runtime[Context]) -> State:
    target = runtime.context.turn.target
    prompt = compose(target.wording, state["messages"], state["passages"])
    if target.other_wording is None:
        return {"prompt": prompt}
    return {"prompt": prompt, "other_prompt": compose(target.other_wording, state["messages"], state["passages"])}


async def answer(state: State, runtime: Runtime[Context]) -> State:
    turn = runtime.context.turn
    turn.route, turn.passages, turn.prompt = state["route"], state["passages"], state["prompt"]
    turn.other_prompt, turn.prompt_version = state.get("other_prompt"), turn.target.wording.version

    async def emit(piece: bytes) -> None:
        runtime.stream_writer(piece)

    await speak(runtime.context.appliance, turn, emit)
    return {}


def chosen_route(state: State) -> str:
    return state["route"]


def build_agent() -> CompiledStateGraph[State, Context, State, State]:
    """Compiled once, when serving starts."""
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("classify", classify)
    graph.add_node("answer", answer)
    graph.add_edge(START, "classify")
    for name, node in {"knowledge": knowledge, "small_talk": small_talk, "refuse": refuse}.items():
        graph.add_node(name, node)
        graph.add_edge(name, "answer")
    graph.add_conditional_edges("classify", chosen_route, ["knowledge", "small_talk", "refuse"])
    graph.add_edge("answer", END)
    return graph.compile()


async def routed_answer(appliance: Appliance, turn: Turn) -> AsyncIterator[bytes]:
    """The answer's bytes as they come. Errors of the nodes come out as they were raised."""
    context = Context(appliance, turn)
    state: State = {"messages": turn.view.messages}
    stream: Any = appliance.agent.astream(state, context=context, stream_mode="custom")
    async with aclosing(stream) as pieces:
        async for piece in pieces:
            yield piece
