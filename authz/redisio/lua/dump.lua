--[[
Reads keys in Redis's own form (DUMP), all as of one moment.

KEYS[1]     the head, a hash: version
KEYS[2 ..]  the keys

ARGV[1]     the version (text) that the store must have; '' for any

Reply       {{DUMP's reply or nil, PTTL}, …}, one a key; nil where the store has another version
]]

if ARGV[1] ~= '' and (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return false end
local entries = {}
for i = 2, #KEYS do entries[i - 1] = {redis.call('DUMP', KEYS[i]), redis.call('PTTL', KEYS[i])} end
return entries
