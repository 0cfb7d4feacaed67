--[[
Finds an item by a unique word, together with its customer and the head of the store at that moment.

KEYS[1]   the head   (layout: prelude/head.lua)
KEYS[2]   unique words, a hash: word -> 'kind/id'
KEYS[3]   the items of that kind, a hash: id -> JSON; the customer's id is at `key.customerId`, if there is one
KEYS[4]   customers, a hash: id -> JSON

ARGV[1]   cmsgpack {word, length of 'kind/'}; '' as the word reads the head only

Reply     cmsgpack {epoch, version, tag, JSON, JSON of the customer}, '' where there is none
]]
-- prelude: head

local word, prefix = unpack(cmsgpack.unpack(ARGV[1]))
local head = read_head(KEYS[1])
local owner = word ~= '' and redis.call('HGET', KEYS[2], word)
local item = owner and redis.call('HGET', KEYS[3], owner:sub(prefix + 1))
local id = item and item:find('"customerId"', 1, true) and cjson.decode(item).key.customerId  -- most keys have none
local customer = id and redis.call('HGET', KEYS[4], id)
return cmsgpack.pack({head.epoch, head.version, head.tag, item or '', customer or ''})
