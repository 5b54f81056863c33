-- Publishes the next mark of a channel that is single.
--
-- Its number is the time in microseconds, or one more than the one before: when Redis goes back to data
-- that it saved earlier, none is given a second time. Where there is none before, or its life is missing,
-- a new life begins: somebody may have deleted either.
--
-- KEYS: the hash. ARGV: what to call a new life of Redis's data, the Redis channel.
-- Answers the mark.
local state = KEYS[1]
local number, time = redis.call('HINCRBY', state, 'mark', 1), redis.call('TIME')
if number == 1 then redis.call('HSET', state, 'life', ARGV[1]) end
redis.call('HSETNX', state, 'life', ARGV[1])
local now = time[1] * 1000000 + time[2]
if now > number then
  number = now
  redis.call('HSET', state, 'mark', string.format('%.0f', number))
end
local mark = redis.call('HGET', state, 'life') .. ' ' .. string.format('%.0f', number)
redis.call('PUBLISH', ARGV[2], mark)
return mark
