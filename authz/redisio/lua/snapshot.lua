--[[
Reads the items that a catalog is compiled from, all as of one moment.

KEYS[1]     the head   (layout: prelude/head.lua)
KEYS[2]     stages, a hash: id -> JSON with apiId and deploymentId
KEYS[3]     deployments, a hash: 'apiId/deploymentId' -> JSON; only those that stages use are read
KEYS[4 ..]  other hashes of items, read whole

Reply       cmsgpack {epoch, version, tag, {{JSON, …}, …}}, a list of items for each of KEYS[2 ..]
]]
-- prelude: head

local head = read_head(KEYS[1])
local stages, deployments, seen = redis.call('HVALS', KEYS[2]), {}, {}
for _, raw in ipairs(stages) do
  local stage = cjson.decode(raw)
  local id = stage.apiId .. '/' .. stage.deploymentId
  local deployment = not seen[id] and redis.call('HGET', KEYS[3], id)
  if deployment then deployments[#deployments + 1] = deployment end
  seen[id] = true
end

local items = {stages, deployments}
for i = 4, #KEYS do items[#items + 1] = redis.call('HVALS', KEYS[i]) end
return cmsgpack.pack({head.epoch, head.version, head.tag, items})
