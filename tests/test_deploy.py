"""The examples in `deploy/`: they name what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from django_broadcaster.instrumentation import prometheus

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
WORD = re.compile(r"\boutbox_[a-z_]+")


def alert_rules() -> list[dict[str, Any]]:
    """Return the rules of the file."""
    (group,) = yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def expressions() -> list[str]:
    """Return every query of the alert rules and of the dashboard."""
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [each["query"] for each in dashboard["templating"]["list"][1:]]
    return [rule["expr"] for rule in alert_rules()] + queries + variables


@pytest.fixture
def known(committing: None) -> set[str]:
    """The names of all samples that can be scraped."""
    registry = CollectorRegistry()
    registry.register(prometheus.OverviewCollector())
    prometheus.EVENTS.labels("default", "published").inc(0)
    prometheus.SECONDS.labels("default").observe(0)
    prometheus.CIRCUIT.labels("default").set(0)
    families = [*registry.collect(), *prometheus.REGISTRY.collect()]
    return {sample.name for family in families for sample in family.samples}


def test_alerts_and_dashboard_name_metrics_that_there_are(known: set[str]) -> None:
    """A typing error in a query would show nothing, for ever."""
    named = {name for query in expressions() for name in WORD.findall(query)}
    assert named <= known
    gauges = {name for name in known if not name.endswith(("_created", "_sum", "_count"))}
    assert gauges - named == set()


def test_every_alert_says_what_is_wrong() -> None:
    """Whoever is woken reads a sentence."""
    rules = alert_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 5
    assert all(rule["annotations"]["summary"] for rule in rules)
    assert {rule["labels"]["severity"] for rule in rules} == {"page", "ticket"}
