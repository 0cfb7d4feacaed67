--[[
Reads the items that a catalog is compiled from, all as of one moment.

KEYS[1]     the head   (layout: prelude/head.lua)
KEYS[2]     customers, a hash: id -> JSON; only those that ARGV[1] names are read
KEYS[3]     stages, a hash: id -> JSON with apiId and deploymentId
KEYS[4]     deployments, a hash: 'apiId/deploymentId' -> JSON; only those that stages use are read
KEYS[5 ..]  other hashes of items, read whole

ARGV[1]     cmsgpack {id of a customer, …}

Reply       cmsgpack {epoch, version, tag, {{JSON, …}, …}}, a list of items for each of KEYS[2 ..]
]]
-- prelude: head

local head = read_head(KEYS[1])
local customers, stages, deployments, seen = {}, redis.call('HVALS', KEYS[3]), {}, {}
for _, id in ipairs(cmsgpack.unpack(ARGV[1])) do
  local customer = redis.call('HGET', KEYS[2], id)
  if customer then customers[#customers + 1] = customer end
end
for _, raw in ipairs(stages) do
  local stage = cjson.decode(raw)
  local id = stage.apiId .. '/' .. stage.deploymentId
  local deployment = not seen[id] and redis.call('HGET', KEYS[4], id)
  if deployment then deployments[#deployments + 1] = deployment end
  seen[id] = true
end

local items = {customers, stages, deployments}
for i = 5, #KEYS do items[#items + 1] = redis.call('HVALS', KEYS[i]) end
return cmsgpack.pack({head.epoch, head.version, head.tag, items})
