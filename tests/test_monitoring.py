"""The provisioned dashboard asks for figures that exist, ours and vLLM's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import Served
from tests.test_compose import SERVICES, networks

FOLDER = Path(__file__).parent.parent / "tools" / "monitoring"
NAME = re.compile(r"\b(?:flywheel_|vllm:)[a-z_]+")
LABELS = re.compile(r"by \(([a-z, ]+)\)|\{([a-z]+)[!=]")
BODY = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


def queries() -> list[str]:
    """Every query of the dashboard."""
    dashboard = json.loads((FOLDER / "dashboards" / "flywheel.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(found) > 20
    return found


@pytest.mark.engine
def test_every_figure_of_the_dashboard_is_told(api: httpx.Client) -> None:
    for stream in (False, True):
        api.post("/v1/chat/completions", json=BODY | {"stream": stream}).raise_for_status()
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    told = ""
    for job in jobs:
        answer = api.get(job.get("metrics_path", "/metrics")).raise_for_status()
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        told += answer.text
    labels: dict[str, set[str]] = {}
    for name, inside in re.findall(r"^((?:flywheel_|vllm:)[a-z_]+)(?:\{(.*)\})?", told, re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r'([a-z_]+)="', inside))
    for query in queries():
        asked = {label.strip() for found in LABELS.findall(query) for label in "".join(found).split(",")}
        for name in NAME.findall(query):
            assert asked <= labels[name], query


@pytest.mark.engine
def test_figures_need_a_key_unless_they_are_open(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ("/metrics", "/metrics/engines/0")
    assert [httpx.get(served.url + path).status_code for path in paths] == [401, 401]
    opened = served.settings.model_copy(
        update={"serving": served.settings.serving.model_copy(update={"open_metrics": True})}
    )
    layer = served.app.middleware_stack
    while not hasattr(layer, "settings"):
        layer = layer.app
    monkeypatch.setattr(layer, "settings", opened)
    assert [httpx.get(served.url + path).status_code for path in paths] == [200, 200]
    assert httpx.get(f"{served.url}/v1/models").status_code == 401
    assert httpx.get(f"{served.url}/metrics/engines/1").json()["error"]["code"] == "not_found"


def test_dashboard_is_provisioned_with_the_source_it_names() -> None:
    source = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text())
    dashboard = json.loads((FOLDER / "dashboards" / "flywheel.json").read_text())
    used = {panel["datasource"]["uid"] for panel in dashboard["panels"] if "datasource" in panel}
    assert used == {one["uid"] for one in source["datasources"]}


def test_what_is_scraped_and_provisioned_is_where_compose_puts_it() -> None:
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    assert {target for job in jobs for place in job["static_configs"] for target in place["targets"]} == {"api:8080"}
    [source] = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert networks("prometheus") & networks("api") & networks("grafana")
    volumes = SERVICES["prometheus"]["volumes"] + SERVICES["grafana"]["volumes"]
    mounts = {inside: outside for outside, inside, *_ in (volume.split(":") for volume in volumes)}
    [config] = [part.partition("=")[2] for part in SERVICES["prometheus"]["command"] if "config.file" in part]
    assert mounts[config] == "./tools/monitoring/prometheus.yml"
    assert mounts["/etc/grafana/provisioning"] == "./tools/monitoring/provisioning"
    [provider] = yaml.safe_load((FOLDER / "provisioning" / "dashboards" / "flywheel.yml").read_text())["providers"]
    place = provider["options"]["path"]
    assert mounts[place] == "./tools/monitoring/dashboards"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (FOLDER / "dashboards" / home.removeprefix(f"{place}/")).is_file()
