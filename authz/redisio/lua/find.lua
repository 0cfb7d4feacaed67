--[[
Finds an item by a unique word, together with the head of the store at that moment.

KEYS[1]   the head   (layout: prelude/head.lua)
KEYS[2]   unique words, a hash: word -> 'kind/id'
KEYS[3]   the items of that kind, a hash: id -> JSON

ARGV[1]   cmsgpack {word, length of 'kind/'}; '' as the word reads the head only

Reply     cmsgpack {epoch, version, tag, JSON}, '' where there is none
]]
-- prelude: head

local word, prefix = unpack(cmsgpack.unpack(ARGV[1]))
local head = read_head(KEYS[1])
local owner = word ~= '' and redis.call('HGET', KEYS[2], word)
local item = owner and redis.call('HGET', KEYS[3], owner:sub(prefix + 1))
return cmsgpack.pack({head.epoch, head.version, head.tag, item or ''})
