-- Publishes the next mark of a channel that is single.
--
-- KEYS: the hash. ARGV: what to call a new life of Redis's data, the Redis channel.
-- Answers the mark.
local state = KEYS[1]
redis.call('HSETNX', state, 'life', ARGV[1])
local number = redis.call('HINCRBY', state, 'mark', 1)
local mark = redis.call('HGET', state, 'life') .. ' ' .. string.format('%.0f', number)
redis.call('PUBLISH', ARGV[2], mark)
return mark
