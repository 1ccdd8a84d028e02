"""The examples in `deploy/`: those whom they are for accept them, and they name what there is."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv as venv_module
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from django.core.management import get_commands, load_command_class
from django.utils import timezone
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import CollectorRegistry

from django_broadcaster.conf import conf
from django_broadcaster.instrumentation import prometheus
from django_broadcaster.models import OutboxReceiver
from django_broadcaster.relay.worker import RELEASE_SECONDS
from tests.support.events import publish
from tests.support.redis_server import missing
from tools.launch import CannotStart, apt_install

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus-alerts.yml"
SCENES = Path(__file__).parent / "promtool" / "alerts.yml"
CONSUMER = "tests.support.memory_broker.MemoryConsumer"
WORD = re.compile(r"\boutbox_[a-z_]+")


def alert_rules() -> list[dict[str, Any]]:
    """Return the rules that alert."""
    return [rule for rule in rules() if "alert" in rule]


def rules() -> list[dict[str, Any]]:
    """Return all rules, with those that record a series for others."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """Return the dashboard of Grafana."""
    found: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    return found


def panel_queries() -> list[str]:
    """Return the queries of the dashboard's panels and marks."""
    marks = [each["expr"] for each in dashboard()["annotations"]["list"]]
    return marks + [target["expr"] for each in dashboard()["panels"] for target in each["targets"]]


def expressions() -> list[str]:
    """Return every query of the rules and of the dashboard."""
    variables = [each["query"] for each in dashboard()["templating"]["list"][1:]]
    return [rule["expr"] for rule in rules()] + panel_queries() + variables


@pytest.fixture
def known(committing: None, settings: Any) -> set[str]:
    """The names of all samples that can be scraped."""
    settings.OUTBOX_CONSUMERS = {"orders": {"CONSUMER": CONSUMER}}
    now = timezone.now()
    OutboxReceiver.objects.using("default").create(
        name="web-1:7", consumer="orders", reads="orders", lag=3, started_at=now, heartbeat_at=now
    )
    registry = CollectorRegistry()
    registry.register(prometheus.OverviewCollector())
    publish("a1", using="default")
    prometheus.EVENTS.labels("default", "published").inc(0)
    prometheus.SECONDS.labels("default").observe(0)
    prometheus.LATENCIES.labels("default").observe(0)
    prometheus.HANDLERS.labels("shop.bill", "succeeded").observe(0)
    prometheus.RECEIVED.labels("orders", "new").inc(0)
    prometheus.RECEIVE_SECONDS.labels("orders").observe(0)
    families = [*registry.collect(), *prometheus.REGISTRY.collect()]
    return {sample.name for family in families for sample in family.samples}


def test_alerts_and_dashboard_name_metrics_that_there_are(known: set[str]) -> None:
    """A typing error in a query would show nothing, for ever."""
    named = {name for query in expressions() for name in WORD.findall(query)}
    assert named <= known
    gauges = {name for name in known if not name.endswith(("_created", "_sum", "_count"))}
    assert gauges - named == set()


def test_every_alert_says_what_is_wrong_and_where_to_read_on() -> None:
    """Whoever is woken reads a sentence, and finds the section with the alert's name."""
    alerts = alert_rules()
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    assert all(rule["annotations"]["summary"] for rule in alerts)
    assert {rule["labels"]["severity"] for rule in alerts} == {"page", "ticket"}
    for rule in alerts:
        page, _, section = rule["annotations"]["runbook_url"].partition("#")
        assert (ROOT / page).is_file()
        assert section == rule["alert"].lower()
        assert f"### {rule['alert']}\n" in (ROOT / page).read_text()


def promtool(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Prometheus's own judge of rules."""
    program = installed("promtool", "prometheus")
    return subprocess.run(
        [program, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=100
    )


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    """In scenes with several pods, several projects and outages, as Prometheus judges them."""
    shutil.copy(SCENES, tmp_path)
    shutil.copy(ALERTS, tmp_path)
    tested = promtool("test", "rules", SCENES.name, cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    scenes = SCENES.read_text()
    fired = set(re.findall(r'alertname="(\w+)", alertstate="firing"', scenes))
    fired |= set(re.findall(r"alertname: (\w+)", scenes))
    assert fired == {rule["alert"] for rule in alert_rules()}


def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    """With the rules that it names."""
    shutil.copytree(DEPLOY, tmp_path, dirs_exist_ok=True)
    checked = promtool("check", "config", "prometheus.yml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "rules found" in checked.stdout


def test_scenes_notice_a_rule_that_is_wrong(tmp_path: Path) -> None:
    """So that a green run says something."""
    text = ALERTS.read_text()
    wrong = text.replace("max by (namespace, job, backend) (outbox_relays)", "outbox_retry", 1)
    assert wrong != text
    (tmp_path / ALERTS.name).write_text(wrong)
    scenes = yaml.safe_load(SCENES.read_text())
    scenes["tests"] = [each for each in scenes["tests"] if "two projects" in each["name"]]
    (tmp_path / SCENES.name).write_text(yaml.safe_dump(scenes))
    tested = promtool("test", "rules", SCENES.name, cwd=tmp_path)
    assert (tested.returncode, "OutboxWithoutRelay" in tested.stderr) == (1, True), tested.stderr


def test_grafana_knows_all_that_the_dashboard_says() -> None:
    """By the models of Grafana's own library: a field that there is not would be left out."""
    register_default_plugins()
    written = dashboard()

    def read(text: dict[str, Any]) -> Any:
        return json.loads(JSONEncoder().encode(Dashboard.from_json(text)))

    def missed(ours: Any, theirs: Any, path: str = "") -> list[str]:
        if isinstance(ours, dict):
            lost = [f"{path}/{name}" for name in ours.keys() - theirs.keys()]
            both = ours.keys() & theirs.keys()
            return lost + [
                each for name in both for each in missed(ours[name], theirs[name], f"{path}/{name}")
            ]
        if isinstance(ours, list):
            pairs = zip(ours, theirs, strict=True)
            return [each for mine, yours in pairs for each in missed(mine, yours, path)]
        return [] if ours == theirs else [path]

    assert missed(written, read(written)) == []
    wrong = {**written, "panel": []}
    assert missed(wrong, read(wrong)) == ["/panel"]


def test_prometheus_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """None has a fixed window, which is empty where scrapes are farther apart."""
    assert not [query for query in panel_queries() if re.search(r"\[\d", query)]
    queries = [query.replace("$__rate_interval", "5m") for query in panel_queries()]
    names = [f"query:{number}" for number in range(len(queries))]
    asked = [{"record": name, "expr": expr} for name, expr in zip(names, queries, strict=True)]
    (tmp_path / "queries.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "dashboard", "rules": asked}]})
    )
    checked = promtool("check", "rules", "queries.yml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr


def test_panels_are_described_and_do_not_overlap() -> None:
    """A row of single figures with bounds on top, then the plots."""
    panels = dashboard()["panels"]
    assert all(panel["description"] and panel["title"] for panel in panels)
    taken = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    first = [panel for panel in panels if panel["gridPos"]["y"] == 0]
    assert {panel["type"] for panel in first} == {"stat"}
    assert all("thresholds" in panel["fieldConfig"]["defaults"] for panel in first)


# The relay as a service

UNIT = DEPLOY / "systemd" / "outbox-relay.service"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
KUBERNETES = DEPLOY / "kubernetes"
MANIFESTS = sorted(KUBERNETES.glob("*.yaml"))
POD_MONITOR = yaml.safe_load((KUBERNETES / "prometheus-operator" / "podmonitor.yaml").read_text())


def manifests() -> dict[str, dict[str, Any]]:
    """Return the objects of Kubernetes by their kinds."""
    found = [each for path in MANIFESTS for each in yaml.safe_load_all(path.read_text())]
    return {each["kind"]: each for each in found}


def unit() -> dict[str, dict[str, str]]:
    """Return the sections of the unit of systemd."""
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as they are written
    parser.read_string(UNIT.read_text())
    return {name: dict(parser[name]) for name in parser.sections()}


def relay_of_compose() -> dict[str, Any]:
    """Return the service of Compose that is the relay."""
    relay: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]["relay"]
    return relay


def container() -> dict[str, Any]:
    """Return the container of the Deployment."""
    (found,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def installed(program: str, package: str) -> str:
    """Return a program, which is installed from Debian's package where that is possible."""
    if not shutil.which(program):
        try:
            apt_install([package])
        except CannotStart as error:
            missing(f"{program}: {error}")
    return program


def verify(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Let systemd judge a unit, whose interpreter is there."""
    path = folder / UNIT.name
    path.write_text(re.sub(r"(?<=^ExecStart=)\S+", sys.executable, text, flags=re.MULTILINE))
    command = [installed("systemd-analyze", "systemd"), "verify", "--man=no", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """Nothing in it is unknown to systemd; a misspelt line would have been found."""
    verified = verify(UNIT.read_text(), tmp_path)
    assert (verified.returncode, UNIT.name in verified.stderr) == (0, False), verified.stderr
    misspelt = UNIT.read_text().replace("WatchdogSec=", "WatchdogSecs=")
    assert "WatchdogSecs" in verify(misspelt, tmp_path).stderr


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_accepts_the_manifests(path: Path) -> None:
    """By the schemas of Kubernetes, strictly: a field that there is not is an error."""
    version = kubernetes_validate.latest_version()
    for manifest in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(manifest, version, strict=True)
        wrong = {**manifest, "spec": {**manifest["spec"], "replica": 2}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, version, strict=True)


def judged(text: str) -> PyCompose:
    """Return a file of Compose; raises ValueError for one that is wrong.

    The library knows none of YAML's merge keys (`<<`), which Compose does.
    """
    return PyCompose.from_json(json.dumps(yaml.safe_load(text)))


def test_compose_accepts_the_file() -> None:
    """By the Compose Specification: a field or a value that there is not is an error."""
    text = COMPOSE.read_text()
    assert "relay" in judged(text).service_names()
    for right, wrong in (("stop_grace_period: 40s", "stop_grace: 40s"), ("40s", "soon")):
        with pytest.raises(ValueError, match="column"):
            judged(text.replace(right, wrong))


def commands() -> dict[str, list[str]]:
    """Return the arguments of `manage.py` in each example, by its place."""
    lines = {
        "systemd": shlex.split(unit()["Service"]["ExecStart"]),
        "compose": relay_of_compose()["command"],
        "compose migrate": commands_of_compose("migrate"),
        "compose web": commands_of_compose("web"),
        "kubernetes": container()["command"],
        "migrate": manifests()["Job"]["spec"]["template"]["spec"]["containers"][0]["command"],
    }
    return {place: line[line.index("manage.py") + 1 :] for place, line in lines.items()}


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the example's image, each with its arguments."""
    lines = (ROOT / "example" / "Dockerfile").read_text().splitlines()
    steps = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in steps]


def test_compose_builds_the_image_of_the_example() -> None:
    """From files that there are, and for whoever starts it from the repository."""
    for service in ("migrate", "stock", "web", "relay"):
        built = yaml.safe_load(COMPOSE.read_text())["services"][service]["build"]
        context = (COMPOSE.parent / built["context"]).resolve()
        assert context == ROOT
        assert (context / built["dockerfile"]).is_file()
    sources = [word for name, rest in dockerfile() if name == "COPY" for word in rest.split()[:-1]]
    assert sources
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_image_of_the_example_works(tmp_path: Path) -> None:
    """Its steps, in a virtual environment, end in a shop whose relay delivers."""
    work, venv = tmp_path / "work", tmp_path / "venv"
    work.mkdir()
    venv_module.create(venv, with_pip=True)
    env = {
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "SHOP_DATABASE": str(tmp_path / "shop.sqlite3"),
        **{name: value for name, value in os.environ.items() if name.startswith("PIP_")},
    }

    def run(command: str) -> str:
        ran = subprocess.run(
            ["sh", "-ec", command], cwd=work, env=env, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    for name, rest in dockerfile():
        if name == "COPY":
            *sources, target = rest.split()
            (work / target).mkdir(parents=True, exist_ok=True)
            for source in sources:
                path = ROOT / source
                if path.is_dir():
                    shutil.copytree(path, work / target, dirs_exist_ok=True)
                else:
                    shutil.copy(path, work / target)
        elif name == "RUN":
            run(rest)
    (command,) = (json.loads(rest) for name, rest in dockerfile() if name == "CMD")
    for service in ("migrate", "stock"):
        run(shlex.join(commands_of_compose(service)))
    run(shlex.join(["python", "manage.py", "shell", "-c", ORDER]))
    run(shlex.join([*command, "--drain"]))
    assert "1 events" in run(shlex.join(["python", "manage.py", "shell", "-c", ARRIVED]))


ORDER = """
from shop.models import Product
from shop.services import place_order
place_order(Product.objects.first())
"""
ARRIVED = """
from shop.models import ReceivedEvent
print(ReceivedEvent.objects.count(), "events")
"""


def commands_of_compose(service: str) -> list[str]:
    """Return the command of a service of Compose."""
    command: list[str] = yaml.safe_load(COMPOSE.read_text())["services"][service]["command"]
    return command


PLACES = ["systemd", "compose", "compose migrate", "compose web", "kubernetes", "migrate"]


@pytest.mark.parametrize("place", PLACES)
def test_the_commands_are_ones_that_there_are(place: str) -> None:
    """Each line starts a command with options that it has."""
    name, *arguments = commands()[place]
    parser = load_command_class(get_commands()[name], name).create_parser("manage.py", name)
    parser.parse_args(arguments)


def test_whoever_stops_a_relay_waits_for_long_enough() -> None:
    """Longer than a relay gives the batches in flight, or it would be killed in the middle."""
    spec = manifests()["Deployment"]["spec"]["template"]["spec"]
    service = unit()["Service"]
    waits = [
        int(service["TimeoutStopSec"]),
        int(service["TimeoutAbortSec"]),
        int(relay_of_compose()["stop_grace_period"].removesuffix("s")),
        spec["terminationGracePeriodSeconds"],
    ]
    assert all(wait > conf.SHUTDOWN_TIMEOUT + RELEASE_SECONDS for wait in waits)
    assert (service["Type"], service["KillSignal"]) == ("notify", "SIGTERM")


def test_probes_ask_for_paths_that_are_served() -> None:
    """Liveness asks whether a restart would help, readiness whether it delivers."""
    probes = {name: container()[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    asked = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert asked == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    port = str(container()["ports"][0]["containerPort"])
    assert commands()["kubernetes"][-2:] == ["--metrics-port", port]
    (code,) = relay_of_compose()["healthcheck"]["test"][3:]
    port = commands()["compose"][-1]
    assert f"http://127.0.0.1:{port}/readyz" in code
    compile(code, "healthcheck", "exec")


def test_no_more_relays_than_partitions_are_asked_for() -> None:
    """More would have nothing to do."""
    spec = manifests()["HorizontalPodAutoscaler"]["spec"]
    assert spec["minReplicas"] < spec["maxReplicas"] <= conf.PARTITIONS
    assert spec["scaleTargetRef"]["name"] == manifests()["Deployment"]["metadata"]["name"]
    labels = manifests()["Deployment"]["spec"]["selector"]["matchLabels"]
    assert manifests()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_the_autoscaler_reads_a_series_that_a_rule_records() -> None:
    """One of the project, by the label that its pods are scraped with."""
    (metric,) = manifests()["HorizontalPodAutoscaler"]["spec"]["metrics"]
    named = metric["external"]["metric"]
    assert named["name"] in {rule.get("record") for rule in rules()}
    label = POD_MONITOR["spec"]["jobLabel"]
    job = manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"][label]
    assert named["selector"]["matchLabels"] == {"job": job}
    assert "replicas" not in manifests()["Deployment"]["spec"], "each apply would undo its work"


def test_prometheus_finds_the_relays() -> None:
    """The monitor selects the pods of the Deployment, and their port."""
    labels = manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert POD_MONITOR["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = POD_MONITOR["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in container()["ports"]}


def test_kubectl_apply_can_create_each_object_again_and_again() -> None:
    """It needs names, and the objects are of kinds that every cluster has."""
    for kind, manifest in manifests().items():
        assert re.fullmatch(r"[a-z0-9-]+", manifest["metadata"]["name"]), kind


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_a_restricted_namespace_takes_the_pods(kind: str) -> None:
    """By the Pod Security Standards: no root, no privileges, the default profile."""
    spec = manifests()[kind]["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for each in spec["containers"]:
        assert each["securityContext"]["allowPrivilegeEscalation"] is False
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_systemd_keeps_secrets_in_a_file_and_lets_the_relay_write_its_data() -> None:
    """`systemctl show` would list secrets of the unit; `strict` makes the rest read-only."""
    service = unit()["Service"]
    assert service["EnvironmentFile"].startswith("/etc/")
    assert service["ProtectSystem"] == "strict"
    assert service["ReadWritePaths"].removeprefix("-").startswith(service["WorkingDirectory"])
