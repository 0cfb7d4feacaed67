--[[
Finds an item by a unique word, together with the head of the store at that moment.

KEYS[1]   the head, a hash: epoch, version, tag
KEYS[2]   unique words, a hash: word -> 'kind/id'
KEYS[3]   the items of that kind, a hash: id -> JSON

ARGV[1]   cmsgpack {word, length of 'kind/'}; without a word only the head is told

Reply     cmsgpack {epoch, version, tag, JSON}, '' where there is none
]]

local word, prefix = unpack(cmsgpack.unpack(ARGV[1]))
local head = redis.call('HMGET', KEYS[1], 'epoch', 'version', 'tag')
local owner = word ~= '' and redis.call('HGET', KEYS[2], word)
local item = owner and redis.call('HGET', KEYS[3], owner:sub(prefix + 1))
return cmsgpack.pack({head[1] or '', tonumber(head[2] or 0), head[3] or '', item or ''})
