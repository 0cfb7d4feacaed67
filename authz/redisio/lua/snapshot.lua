--[[
All that a catalog is compiled from, as of one moment.

KEYS[1]     the head, a hash: epoch, version, tag
KEYS[2]     stages, a hash: id -> JSON with apiId and deploymentId
KEYS[3]     deployments, a hash: 'apiId/deploymentId' -> JSON; of these only those that stages use
KEYS[4 ..]  other hashes of items, taken whole

Reply       cmsgpack {epoch, version, tag, {{JSON, …}, …}}, a list of items for each of KEYS[2 ..]
]]

local head = redis.call('HMGET', KEYS[1], 'epoch', 'version', 'tag')
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
return cmsgpack.pack({head[1] or '', tonumber(head[2] or 0), head[3] or '', items})
