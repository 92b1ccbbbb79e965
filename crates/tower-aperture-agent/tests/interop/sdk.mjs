// The official JavaScript SDK, unmodified, against the agent.
//
// ADDRESS, and for TLS also CA (a file) and API_KEY, are in the environment. What npm has of it is
// older than FlowEnd, and leaves the names of slots out of its spans: its flows end, and the slots
// they held are free after the policy's limit, with an Agent as here.
import assert from "node:assert/strict";
import fs from "node:fs";
import http from "node:http";
import https from "node:https";
import { setTimeout as sleep } from "node:timers/promises";

import grpc from "@grpc/grpc-js";
import { ApertureClient, FlowStatus, LookupStatus } from "@fluxninja/aperture-js";

const { ADDRESS: address, CA, API_KEY } = process.env;
const ca = CA && fs.readFileSync(CA);
const PATIENCE = 60_000;

function newClient(apiKey = API_KEY) {
  const channelCredentials = ca ? grpc.credentials.createSsl(ca) : grpc.credentials.createInsecure();
  return new ApertureClient(ca ? { address, apiKey, channelCredentials } : { address, channelCredentials });
}

// The SDK sets no deadline, so each flow brings one.
function start(client, controlPoint, { labels = {}, within = PATIENCE, ...more } = {}) {
  const grpcCallOptions = { deadline: Date.now() + within };
  return client.startFlow(controlPoint, { labels, grpcCallOptions, ...more });
}

function decision(flow) {
  const answer = flow.checkResponse();
  if (!answer) return "unreachable";
  return { DECISION_TYPE_ACCEPTED: "accepted", 0: "accepted" }[answer.decisionType] ?? "rejected";
}

// The value of a metric of the agent.
function metric(name) {
  const get = ca ? https.get : http.get;
  return new Promise((resolve, reject) => {
    const call = get(`${ca ? "https" : "http"}://${address}/metrics`, { ca }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part) => (text += part));
      answer.on("end", () => resolve(Number(new RegExp(`^${name}\\{.*\\} (\\d+)`, "m").exec(text)[1])));
    });
    call.on("error", reject);
  });
}

async function until(what, isSo) {
  const end = Date.now() + PATIENCE;
  while (!(await isSo())) {
    assert(Date.now() < end, `in vain waited until ${what}`);
    await sleep(10);
  }
}

async function rateLimitWithKeys(client) {
  for (const user_id of ["ann", "bob"]) {
    const flows = [];
    for (let i = 0; i < 3; i++) flows.push(await start(client, "rate", { labels: { user_id } }));
    assert.deepEqual(flows.map(decision), ["accepted", "accepted", "rejected"], user_id);
    assert.deepEqual(flows.map((flow) => flow.shouldRun()), [true, true, false]);
    assert(Number(flows[2].retryAfter().seconds) > 0);
    for (const flow of flows) flow.end();
  }
  for (let i = 0; i < 3; i++) assert((await start(client, "rate")).shouldRun());
}

async function concurrencyLimitWithEnd(client) {
  const ask = (tenant) => start(client, "brief", { labels: { tenant } });
  const flows = [await ask("a"), await ask("a"), await ask("b")];
  assert.deepEqual(flows.map(decision), ["accepted", "rejected", "accepted"]);
  flows[0].setStatus(FlowStatus.Error);
  for (const flow of flows) flow.end();
  await until("the slot is free again", async () => (await ask("a")).shouldRun());
  const spans = await metric("tower_aperture_agent_spans_total");
  const last = await ask("c");
  last.end();
  await client.tracerProvider.forceFlush();
  await until("the agent has its span", async () => (await metric("tower_aperture_agent_spans_total")) > spans);
}

async function prioritiesWithDeadlines(client) {
  const ask = (tier, tokens, within) => start(client, "quota", { labels: { tier, tokens }, within });
  assert.equal(decision(await ask("bronze", "10")), "accepted");
  // With half a second to wait (two are the margin) it is told no, and is not unreachable.
  const late = await ask("gold", "8", 2500);
  assert.equal(decision(late), "rejected", String(late.error()));
  late.end();
  // The first waits for its eight seconds; behind it gold overtakes bronze.
  const waits = [["bronze", "8"], ["bronze", "0.1"], ["bronze", "0.1"], ["gold", "0.1"], ["gold", "0.1"]];
  const expected = ["bronze", "gold", "gold", "bronze", "bronze"];
  const order = [];
  const flows = [];
  for (const [tier, tokens] of waits) {
    flows.push(
      ask(tier, tokens).then((flow) => {
        order.push([tier, decision(flow)]);
        flow.end();
      }),
    );
    const waiting = flows.length;
    await until(`${waiting} wait`, async () => (await metric("tower_aperture_agent_waiting")) === waiting);
  }
  await Promise.all(flows);
  assert.deepEqual(order, expected.map((tier) => [tier, "accepted"]));
}

async function caches(client) {
  const ttl = { seconds: 600, nanos: 0 };
  const keys = { resultCacheKey: "answer", globalCacheKeys: ["shared", "absent"] };
  const both = (flow) => [flow.resultCache(), flow.globalCache("shared")];
  const missed = (found) => found.getLookupStatus() === LookupStatus.Miss;
  const text = (found) => found.getValue().toString();

  let flow = await start(client, "cache", keys);
  assert.equal(decision(flow), "accepted");
  for (const found of both(flow)) assert(missed(found) && found.getError() === null);
  const entries = ["forty-two ü", "everybody's"].map((value) => ({ value: Buffer.from(value), ttl }));
  assert.equal((await flow.setResultCache(entries[0])).getError(), null);
  assert.equal((await flow.setGlobalCache("shared", entries[1])).getError(), null);
  flow.end();

  flow = await start(client, "cache", keys);
  assert(!both(flow).some(missed));
  assert.deepEqual(both(flow).map(text), ["forty-two ü", "everybody's"]);
  assert(missed(flow.globalCache("absent")));
  const elsewhere = await start(client, "cache-elsewhere", keys);
  assert.deepEqual(both(elsewhere).map(missed), [true, false]);
  elsewhere.end();
  assert.equal((await flow.deleteResultCache()).getError(), null);
  assert.equal((await flow.deleteGlobalCache("shared")).getError(), null);
  flow.end();

  flow = await start(client, "cache", keys);
  assert(both(flow).every(missed));
  flow.end();
}

async function ramp(client) {
  const ask = (point, user_id = "ann") => start(client, point, { labels: { user_id }, rampMode: true });
  assert.equal(decision(await ask("ramp-all")), "accepted");
  for (const point of ["ramp-none", "a-point-without-a-ramp"]) {
    const flow = await ask(point);
    assert.equal(decision(flow), "rejected", point);
    assert.equal(flow.shouldRun(), false);
  }
  const users = Array.from({ length: 100 }, (_, number) => `user-${number}`);
  const draw = async () => {
    const flows = await Promise.all(users.map((user) => ask("ramp-half", user)));
    return flows.map((flow) => flow.shouldRun());
  };
  const [first, second] = [await draw(), await draw()];
  assert.deepEqual(first, second, "a user stays in or out");
  const into = first.filter(Boolean).length;
  assert(into > 10 && into < 90, String(into));
}

async function refused() {
  // No key at all is one that is not known: `null` keeps the default away.
  for (const key of ["no-such-key", null]) {
    const client = newClient(key);
    const flow = await start(client, "rate", { labels: { user_id: "mallory" } });
    assert.equal(decision(flow), "unreachable");
    assert.equal(flow.shouldRun(), true);
    assert.equal(flow.error().code, grpc.status.UNAUTHENTICATED);
    const ramped = await start(client, "ramp-all", { rampMode: true });
    assert.equal(decision(ramped), "unreachable");
    assert.equal(ramped.shouldRun(), false);
    client.shutdown();
  }
}

if (ca) {
  await refused();
  console.log("  refused without its API key: unreachable");
}
const client = newClient();
for (const [name, check] of [
  ["rate limit with keys", rateLimitWithKeys],
  ["concurrency limit with end", concurrencyLimitWithEnd],
  ["priorities with deadlines", prioritiesWithDeadlines],
  ["caches", caches],
  ["ramp", ramp],
]) {
  await check(client);
  console.log(`  ${name}`);
}
// Its channel watches itself for ever; an exit code is what counts.
process.exit(0);
