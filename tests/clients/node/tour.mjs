// AWS's SDK for JavaScript against our control plane and a real Envoy: create everything, page through it, call it,
// delete it. AWS's own variables give the SDK its address; GATEWAY_URL is Envoy's listener.
import assert from "node:assert/strict";
import http from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import * as aws from "@aws-sdk/client-api-gateway";

const DEADLINE_MS = 60_000;
const gateway = new URL(process.env.GATEWAY_URL);
const client = new aws.APIGatewayClient({});
const send = (Command, input = {}) => client.send(new Command(input));
const step = (text) => console.log(text);

/** Every item of a list, fetched one by one. */
async function all(paginate, input = {}) {
  const items = [];
  for await (const page of paginate({ client, pageSize: 1 }, { ...input })) { // the SDK writes into its argument
    assert.ok((page.items ?? []).length <= 1, "a page of one holds more");
    items.push(...(page.items ?? []));
  }
  return items;
}

/** The status and body of a GET through Envoy; fetch() would not let us set the host. */
function call(host, path, key) {
  return new Promise((resolve, reject) => {
    const headers = { host, ...(key ? { "x-api-key": key } : {}) };
    const request = http.get({ hostname: gateway.hostname, port: gateway.port, path, headers }, (response) => {
      let body = "";
      response.on("data", (chunk) => (body += chunk));
      response.on("end", () => resolve({ status: response.statusCode, body }));
    });
    request.on("error", reject);
  });
}

async function until(holds, otherwise) {
  const end = Date.now() + DEADLINE_MS;
  while (!(await holds())) {
    assert.ok(Date.now() < end, otherwise);
    await pause(20);
  }
}

const sorted = (items, member) => items.map((item) => item[member]).sort();

// Create everything.
const api = await send(aws.CreateRestApiCommand, { name: "Pets", tags: { team: "animals" } });
const at = { restApiId: api.id };
const pets = await send(aws.CreateResourceCommand, { ...at, parentId: api.rootResourceId, pathPart: "pets" });
const model = { ...at, name: "Pet", contentType: "application/json", schema: '{"type":"object"}' };
await send(aws.CreateModelCommand, model);
const validator = await send(aws.CreateRequestValidatorCommand, { ...at, name: "bodies", validateRequestBody: true });
const method = { ...at, resourceId: pets.id, httpMethod: "GET" };
await send(aws.PutMethodCommand, {
  ...method,
  authorizationType: "NONE",
  apiKeyRequired: true,
  requestModels: { "application/json": "Pet" },
  requestValidatorId: validator.id,
});
await send(aws.PutMethodResponseCommand, { ...method, statusCode: "200", responseModels: { "application/json": "Pet" } });
await send(aws.PutIntegrationCommand, {
  ...method,
  type: "MOCK",
  requestTemplates: { "application/json": '{"statusCode": 200}' },
});
await send(aws.PutIntegrationResponseCommand, { ...method, statusCode: "200", responseTemplates: {} });
await send(aws.PutGatewayResponseCommand, { ...at, responseType: "THROTTLED", statusCode: "429" });
const deployment = await send(aws.CreateDeploymentCommand, { ...at, description: "first" });
const stage = { ...at, stageName: "prod" };
await send(aws.CreateStageCommand, { ...stage, deploymentId: deployment.id, variables: { colour: "blue" } });
const plan = await send(aws.CreateUsagePlanCommand, {
  name: "Silver",
  apiStages: [{ apiId: api.id, stage: "prod" }],
  throttle: { rateLimit: 50, burstLimit: 100 },
  quota: { limit: 2, period: "MONTH" },
});
const keys = [];
for (const name of ["acme", "bolt", "cork"]) keys.push(await send(aws.CreateApiKeyCommand, { name, enabled: true }));
for (const key of keys) {
  await send(aws.CreateUsagePlanKeyCommand, { usagePlanId: plan.id, keyId: key.id, keyType: "API_KEY" });
}
const domain = { domainName: "api.node.example" };
await send(aws.CreateDomainNameCommand, domain);
await send(aws.CreateBasePathMappingCommand, { ...domain, basePath: "v1", restApiId: api.id, stage: "prod" });
step("created");

// Read it back, and page through it one by one.
const ids = keys.map((key) => key.id).sort();
assert.deepEqual(sorted(await all(aws.paginateGetApiKeys), "id"), ids);
assert.deepEqual(sorted(await all(aws.paginateGetUsagePlanKeys, { usagePlanId: plan.id }), "id"), ids);
assert.deepEqual(sorted(await all(aws.paginateGetUsagePlans), "id"), [plan.id]);
assert.deepEqual(sorted(await all(aws.paginateGetResources, at), "path"), ["/", "/pets"]);
assert.deepEqual(sorted(await all(aws.paginateGetDeployments, at), "id"), [deployment.id]);
assert.deepEqual(sorted(await all(aws.paginateGetModels, at), "name").includes("Pet"), true);
assert.deepEqual(sorted(await all(aws.paginateGetDomainNames), "domainName"), [domain.domainName]);
assert.deepEqual(sorted(await all(aws.paginateGetBasePathMappings, domain), "basePath"), ["v1"]);
assert.ok(sorted(await all(aws.paginateGetRestApis), "id").includes(api.id));
const read = await send(aws.GetMethodCommand, method);
assert.equal(read.apiKeyRequired, true);
assert.equal(read.requestValidatorId, validator.id);
assert.equal(read.methodIntegration.type, "MOCK");
assert.equal((await send(aws.GetStageCommand, stage)).variables.colour, "blue");
assert.ok((await send(aws.GetRestApiCommand, at)).createdDate instanceof Date);
step("paged");

// A PATCH, and an error that the SDK knows by its class.
const patchOperations = [{ op: "replace", path: "/description", value: "three a month" }];
assert.equal((await send(aws.UpdateUsagePlanCommand, { usagePlanId: plan.id, patchOperations })).description, "three a month");
await assert.rejects(send(aws.GetUsagePlanCommand, { usagePlanId: "nothing" }), aws.NotFoundException);
step("changed");

// Use it through Envoy: by the API's own host, then by the domain.
const host = `${api.id}.example.org`;
await until(async () => (await call(host, "/prod/pets", keys[0].value)).status === 200, "the first call is not let in");
assert.equal((await call(host, "/prod/pets")).status, 403);
assert.equal((await call(domain.domainName, "/v1/pets", keys[0].value)).status, 200);
const over = await call(host, "/prod/pets", keys[0].value);
assert.deepEqual(over, { status: 429, body: '{"message":"Limit Exceeded"}' });
const today = new Date().toISOString().slice(0, 10);
const yesterday = new Date(Date.now() - 86_400_000).toISOString().slice(0, 10);
const usage = await send(aws.GetUsageCommand, { usagePlanId: plan.id, startDate: yesterday, endDate: today });
assert.equal(usage.items[keys[0].id].reduce((sum, [used]) => sum + used, 0), 2);
assert.equal(usage.items[keys[0].id].at(-1)[1], 0);
step("called");

// Delete everything; nothing is left.
await send(aws.DeleteBasePathMappingCommand, { ...domain, basePath: "v1" });
await send(aws.DeleteDomainNameCommand, domain);
for (const key of keys) await send(aws.DeleteUsagePlanKeyCommand, { usagePlanId: plan.id, keyId: key.id });
for (const key of keys) await send(aws.DeleteApiKeyCommand, { apiKey: key.id });
const detach = [{ op: "remove", path: "/apiStages", value: `${api.id}:prod` }];
await send(aws.UpdateUsagePlanCommand, { usagePlanId: plan.id, patchOperations: detach });
await send(aws.DeleteUsagePlanCommand, { usagePlanId: plan.id });
await send(aws.DeleteStageCommand, stage);
await send(aws.DeleteDeploymentCommand, { ...at, deploymentId: deployment.id });
await send(aws.DeleteGatewayResponseCommand, { ...at, responseType: "THROTTLED" });
await send(aws.DeleteRestApiCommand, at);
assert.deepEqual(await all(aws.paginateGetApiKeys), []);
assert.deepEqual(await all(aws.paginateGetUsagePlans), []);
assert.deepEqual(await all(aws.paginateGetDomainNames), []);
assert.ok(!sorted(await all(aws.paginateGetRestApis), "id").includes(api.id));
await until(async () => (await call(host, "/prod/pets", keys[0].value)).status === 403, "a deleted API is still served");
step("deleted");
