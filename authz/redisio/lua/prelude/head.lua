-- The head of a store is a hash: epoch, version, tag (random, of the last commit), sequence (the last score given).
local function read_head(key)
  local head = redis.call('HMGET', key, 'epoch', 'version', 'tag', 'sequence')
  return {epoch = head[1] or '', version = tonumber(head[2] or 0), tag = head[3] or '', sequence = tonumber(head[4] or 0)}
end
