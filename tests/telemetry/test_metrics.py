"""`/metrics` has the names and labels of the contract, and passes Prometheus' own linter."""

import asyncio
import subprocess

import pytest
from behind_tls import behind_tls
from certificates import certify
from gateway import in_process
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from wire import Client, call, complete

from server.telemetry.histogram import PlainHistogram

# Kind and labels of what section 5 of the contract names; `le` of a histogram's buckets is left out.
CONTRACT = {
    "sluiceway_streams_active": ("gauge", set()),
    "sluiceway_streams": ("counter", {"status"}),
    "sluiceway_ttft_seconds": ("histogram", {"target"}),
    "sluiceway_inter_token_seconds": ("histogram", {"target"}),
    "sluiceway_upstream_phase_seconds": ("histogram", {"phase", "target"}),
    "sluiceway_client_drain_seconds": ("histogram", set()),
    "sluiceway_client_disconnects": ("counter", {"reason"}),
    "sluiceway_recoveries": ("counter", {"strategy", "outcome"}),
    "sluiceway_upstream_errors": ("counter", {"target", "kind"}),
    "sluiceway_breaker_state": ("gauge", {"target"}),
    "sluiceway_buffered_bytes": ("gauge", set()),
    "sluiceway_tokens": ("counter", set()),
    "sluiceway_usage_tokens": ("counter", {"key", "model", "kind"}),
}


@pytest.fixture
async def scraped(provider, model, tmp_path) -> str:
    """The text after an answer, a recovery, a failure and a client that left, over TLS."""
    certificate = certify(tmp_path)
    await provider.script(f"{model}-cut", {"text": "a b c", "cut_after": 2}, {"text": "a b c"})
    await provider.script(f"{model}-bad", {"status": 500})
    await provider.script(f"{model}-long", {"stall_after": 1})
    await provider.script(model, {"tokens": 5, "rate": 50})
    trust, recovery = {"ca_file": str(certificate.certificate)}, {"strategy": "restart", "backoff": 0.01}
    async with (
        behind_tls(provider.url, certificate, host="localhost") as url,
        in_process(url, upstream=trust, recovery=recovery) as gateway,
    ):
        for kind in ("", "-cut", "-bad"):
            await complete(gateway.root, model + kind)
        async with Client(gateway.root) as client:
            await client.complete(f"{model}-long")
            await client.head()
            client.leave()
        await gateway.idle()
        return (await call(gateway.root, "GET", "/metrics")).body.decode()


async def test_contract(scraped) -> None:
    """Every metric is there with its kind and exactly its labels, and every phase is a label."""
    found = {family.name: family for family in text_string_to_metric_families(scraped)}
    for name, (kind, labels) in CONTRACT.items():
        family = found[name]
        assert family.type == kind, name
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        assert samples, name
        assert {frozenset(sample.labels.keys() - {"le"}) for sample in samples} == {frozenset(labels)}, name
    phases = {sample.labels["phase"] for sample in found["sluiceway_upstream_phase_seconds"].samples}
    assert phases == {"dns", "connect", "tls", "headers", "first_token"}
    targets = {
        sample.labels["target"] for family in found.values() for sample in family.samples if "target" in sample.labels
    }
    assert targets == {"local/*"}  # as configured: a client cannot make further series


async def test_linter(scraped) -> None:
    """`promtool check metrics` finds no fault."""
    command = ["promtool", "check", "metrics"]
    checked = await asyncio.to_thread(subprocess.run, command, input=scraped, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_histogram_without_locks() -> None:
    """It counts as prometheus_client's own does, on the bounds of the buckets and past the last one too."""
    registries = CollectorRegistry(), CollectorRegistry()
    theirs = Histogram("h_seconds", "A text.", ["target"], buckets=(0.01, 0.5, 10.0), registry=registries[0])
    ours = PlainHistogram("h_seconds", "A text.", (0.01, 0.5, 10.0), ["target"])
    registries[1].register(ours)
    for seconds in (0.0, 0.01, 0.011, 0.5, 9.0, 11.0, 0.2):
        theirs.labels("a").observe(seconds)
        ours.of("a").observe(seconds)
    expected, text = (generate_latest(registry).decode() for registry in registries)
    assert [line for line in expected.splitlines() if "_created" not in line] == text.splitlines()
