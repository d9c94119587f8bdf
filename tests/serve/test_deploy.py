"""The files for many machines: they parse, and name options, paths and numbers that the server has."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from live_server import Live

from house import ROOT, help_text
from llava_grounding.serve.metrics import Metrics
from llava_grounding.serve.settings import ServeSettings

DEPLOY = ROOT / "deploy"
KUBERNETES = "1.27"
"""The oldest that the manifests are for."""


def manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


def test_the_manifests_belong_together_and_ask_what_the_server_answers(live: Live) -> None:
    kinds = manifests()
    assert kinds.keys() == {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"}
    pod = kinds["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    selectors = [kinds["Deployment"]["spec"]["selector"]["matchLabels"], kinds["Service"]["spec"]["selector"]]
    assert selectors == [labels, labels]
    assert kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    (server,) = pod["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert live.http.get(server[probe]["httpGet"]["path"]).status_code == 200
    known = help_text("serve")
    assert [one for one in server["args"] if one.startswith("--") and f"{one} " not in known] == []
    assert server["env"][0]["name"] in known
    grace = int(server["args"][server["args"].index("--grace") + 1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > grace + 5  # and what comes before the signal
    (metric,) = kinds["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert f"{metric['pods']['metric']['name']} ".encode() in Metrics().page()


def test_the_manifests_are_what_kubernetes_takes() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    for document in documents:
        for version in (KUBERNETES, validator.latest_version()):
            validator.validate(document, version, strict=True)
    documents[0]["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(validator.ValidationError, match="livenessProb"):
        validator.validate(documents[0], KUBERNETES, strict=True)


def test_the_proxy_lets_through_what_the_server_takes() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert (DEPLOY / compose["services"]["model"]["build"]["dockerfile"].rpartition("/")[2]).is_file()
    proxy = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    settings = ServeSettings()
    assert f"client_max_body_size {settings.max_body_bytes // 10**6}m;" in proxy
    assert "proxy_buffering off;" in proxy
    assert f"proxy_read_timeout {settings.timeout_seconds + 30:.0f}s;" in proxy
