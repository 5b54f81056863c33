-- Renews the lease of a channel that is single, or takes it if it is nobody's.
--
-- KEYS: the lease, the hash. ARGV: the daemon's token, milliseconds that the lease lasts, 1 to take it,
-- 1 when nothing waits to be handled.
-- Answers: 1 if it is this daemon's, milliseconds that are left (-2: nobody has it), up to where all is
-- done, how many milliseconds ago that was all there was (-1: nobody knows), and by what `look_before`
-- has called it that nothing was ever written (where a place is missing that was, it is called nothing).
local lease, state, token = KEYS[1], KEYS[2], ARGV[1]
local holder, ours = redis.call('GET', lease), 0
if holder == token then
  ours = 1
elseif not holder and ARGV[3] == '1' then
  ours = 1
end
-- No SET where it is there: out of memory that would be refused.
if holder == token then
  redis.call('PEXPIRE', lease, ARGV[2])
elseif ours == 1 then
  redis.call('SET', lease, token, 'PX', ARGV[2])
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local at, since = redis.call('HGET', state, 'at'), redis.call('HGET', state, 'time')
local age = -1
if since then age = math.max(0, now - since) end
if holder == token and ARGV[4] == '1' and at then
  redis.pcall('HSET', state, 'time', string.format('%.0f', now))
end
local unwritten = not at and redis.call('HGET', state, 'unwritten')
return { ours, redis.call('PTTL', lease), at or '', age, unwritten or '' }
