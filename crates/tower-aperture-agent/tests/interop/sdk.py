"""The official Python SDK, unmodified, against the agent.

ADDRESS, and for TLS also CA (a file) and API_KEY, are in the environment. A plain assertion that
fails is the end, with exit code 1.
"""

import asyncio
import datetime
import os
import queue
import re
import ssl
import threading
import time
import urllib.request

import grpc
from aperture_sdk.cache import LookupStatus
from aperture_sdk.client import ApertureClient
from aperture_sdk.client_async import ApertureClientAsync
from aperture_sdk.client_common import FlowParams
from aperture_sdk.flow_common import FlowDecision, FlowStatus

ADDRESS = os.environ["ADDRESS"]
CA = os.environ.get("CA")
KEY = os.environ.get("API_KEY")
PATIENCE = datetime.timedelta(seconds=60)
ACCEPTED, REJECTED = FlowDecision.Accepted, FlowDecision.Rejected


def authority():
    with open(CA, "rb") as file:
        return grpc.ssl_channel_credentials(file.read())


def new_client(kind=ApertureClient, key=KEY):
    if not CA:
        return kind.new_client(address=ADDRESS, insecure=True)
    return kind.new_client(address=ADDRESS, api_key=key, credentials=authority())


def params(**more):
    labels = {key: more.pop(key) for key in ("user_id", "tenant", "tier") if key in more}
    return FlowParams(**{"explicit_labels": labels, "check_timeout": PATIENCE, **more})


def waiting():
    """How many flows wait, as the agent's metrics have it."""
    scheme, context = ("https", ssl.create_default_context(cafile=CA)) if CA else ("http", None)
    with urllib.request.urlopen(f"{scheme}://{ADDRESS}/metrics", context=context) as answer:
        text = answer.read().decode()
    return int(re.search(r"^tower_aperture_agent_waiting\{.*\} (\d+)", text, re.M).group(1))


def until_waiting(flows):
    end = time.monotonic() + PATIENCE.total_seconds()
    while waiting() != flows:
        assert time.monotonic() < end, f"{flows} never waited"
        time.sleep(0.01)


def rate_limit_with_keys(client):
    for user in ("ann", "bob"):
        flows = [client.start_flow("rate", params(user_id=user)) for _ in range(3)]
        assert [flow.decision for flow in flows] == [ACCEPTED, ACCEPTED, REJECTED], user
        assert [flow.should_run() for flow in flows] == [True, True, False]
        assert flows[2].retry_after() > datetime.timedelta(0)
        for flow in flows:
            assert flow.end().get_error() is None
    # A limit is one of a key: without one there is none.
    assert all(client.start_flow("rate", params()).should_run() for _ in range(3))


def concurrency_limit_with_end(client):
    ask = lambda tenant: client.start_flow("slots", params(tenant=tenant))
    for round in range(3):
        first, second, other = ask("a"), ask("a"), ask("b")
        assert [flow.decision for flow in (first, second, other)] == [ACCEPTED, REJECTED, ACCEPTED]
        second.end()
        for flow in (first, other):
            flow.set_status(FlowStatus.Error if round == 1 else FlowStatus.OK)
            ended = flow.end()
            assert ended.get_error() is None, ended.get_error()
            statuses = ended.get_flow_end_response().token_return_statuses
            assert [(one.returned, one.error) for one in statuses] == [(True, "")], statuses


def priorities_with_deadlines(client):
    holder = client.start_flow("queue", params(tier="bronze"))
    assert holder.decision == ACCEPTED
    # With half a second to wait (two are the margin) it is told no, and is not unreachable.
    late = client.start_flow(
        "queue", params(tier="gold", check_timeout=datetime.timedelta(seconds=2.5))
    )
    assert late.decision == REJECTED, late.error()
    late.end()

    # Who waits first is next, whoever it is; gold overtakes the others.
    order, tiers = queue.Queue(), ["bronze", "bronze", "bronze", "gold", "gold"]
    expected = ["bronze", "gold", "gold", "bronze", "bronze"]

    def wait_and_end(tier):
        flow = client.start_flow("queue", params(tier=tier))
        order.put((tier, flow.decision))
        flow.end()

    threads = []
    for number, tier in enumerate(tiers, start=1):
        threads.append(threading.Thread(target=wait_and_end, args=(tier,)))
        threads[-1].start()
        until_waiting(number)
    holder.end()
    for thread in threads:
        thread.join()
    served = [order.get() for _ in tiers]
    assert served == [(tier, ACCEPTED) for tier in expected], served


def caches(client):
    ttl = datetime.timedelta(seconds=600)
    keys = {"result_cache_key": "answer", "global_cache_keys": ["shared", "absent"]}
    flow = client.start_flow("cache", params(**keys))
    assert flow.decision == ACCEPTED
    for found in (flow.result_cache(), flow.global_cache("shared")):
        assert found.get_lookup_status() == LookupStatus.MISS
        assert found.get_error() is None and not found.get_value()
    assert flow.set_result_cache("forty-two ü", ttl).get_error() is None
    assert flow.set_global_cache("shared", "everybody's", ttl).get_error() is None
    flow.end()

    flow = client.start_flow("cache", params(**keys))
    hit, shared = flow.result_cache(), flow.global_cache("shared")
    assert (hit.get_lookup_status(), hit.get_value()) == (LookupStatus.HIT, "forty-two ü".encode())
    assert (shared.get_lookup_status(), shared.get_value()) == (LookupStatus.HIT, b"everybody's")
    assert flow.global_cache("absent").get_lookup_status() == LookupStatus.MISS
    elsewhere = client.start_flow("cache-elsewhere", params(**keys))
    assert elsewhere.result_cache().get_lookup_status() == LookupStatus.MISS
    assert elsewhere.global_cache("shared").get_lookup_status() == LookupStatus.HIT
    elsewhere.end()
    assert flow.delete_result_cache().get_error() is None
    assert flow.delete_global_cache("shared").get_error() is None
    flow.end()

    flow = client.start_flow("cache", params(**keys))
    for found in (flow.result_cache(), flow.global_cache("shared")):
        assert found.get_lookup_status() == LookupStatus.MISS
    flow.end()


def ramp(client):
    ask = lambda point, user="ann": client.start_flow(point, params(user_id=user, ramp_mode=True))
    assert ask("ramp-all").decision == ACCEPTED
    for point in ("ramp-none", "a-point-without-a-ramp"):
        flow = ask(point)
        assert flow.decision == REJECTED and not flow.should_run(), point
    users = [f"user-{number}" for number in range(100)]
    draws = [[ask("ramp-half", user).should_run() for user in users] for _ in range(2)]
    assert draws[0] == draws[1], "a user stays in or out"
    assert 10 < sum(draws[0]) < 90, sum(draws[0])


def refused():
    for key in ("no-such-key", None):
        client = new_client(key=key)
        flow = client.start_flow("rate", params(user_id="mallory"))
        assert flow.decision == FlowDecision.Unreachable and flow.should_run()
        assert flow.error().code() == grpc.StatusCode.UNAUTHENTICATED, flow.error()
        ramped = client.start_flow("ramp-all", params(ramp_mode=True))
        assert ramped.decision == FlowDecision.Unreachable and not ramped.should_run()


async def asynchronous():
    client = new_client(ApertureClientAsync)
    ask = lambda: client.start_flow("slots", params(tenant="async"))
    first, second = await ask(), await ask()
    assert [flow.decision for flow in (first, second)] == [ACCEPTED, REJECTED]
    await second.end()
    ended = await first.end()
    assert [one.returned for one in ended.get_flow_end_response().token_return_statuses] == [True]
    third = await ask()
    assert third.decision == ACCEPTED
    await third.end()
    client.close()


def main():
    client = new_client()
    for check in (
        rate_limit_with_keys,
        concurrency_limit_with_end,
        priorities_with_deadlines,
        caches,
        ramp,
    ):
        check(client)
        print(f"  {check.__name__.replace('_', ' ')}")
    asyncio.run(asynchronous())
    print("  the asynchronous client")
    # Spans that are left go out here.
    client.tracer.span_processor.shutdown()
    client.close()
    if CA:
        refused()
        print("  refused without its API key: unreachable")


main()
