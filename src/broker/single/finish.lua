-- Writes what was made of some messages of a channel that is single, and up to where all is done: in
-- one step, and not at all for a daemon that hasn't the lease any more.
--
-- Nor when another place is stored than the one that these messages come behind. A network may bring
-- this long after it was sent, over a connection that was given up: the daemon has asked again over
-- another one since, or has lost the lease and got it back, and the lease alone would let it pass.
--
-- The place is written first: where Redis takes no writes now (out of memory, a replica), that fails,
-- nothing was written, and the same is asked again. What Redis refuses of the outputs after that is
-- refused for good, and counted, as it is without `single`.
--
-- KEYS: the lease, the hash. ARGV: the daemon's token, milliseconds that the lease lasts, the place,
--   the place before it (empty: none was ever stored), how many milliseconds ago came what is behind it
--   (0: nothing has), how many keys, these, then the writes: `a` key maxlen (0: none) n and n fields and
--   values | `l` key payload | `p` channel payload, where a key is its place among those.
-- Answers: 0 if the lease isn't this daemon's, or the place before isn't that; or 1, why a write was
--   refused, and which were: the how-manieth of all, each.
local ARGV, pcall, tonumber, unpack = ARGV, redis.pcall, tonumber, unpack
local lease, state, token, place = KEYS[1], KEYS[2], ARGV[1], ARGV[3]
local stored = redis.call('HGET', state, 'at') or ''
-- Asked a second time, because the first answer was lost.
if stored == place then return { 1, '' } end
if stored ~= ARGV[4] or redis.call('GET', lease) ~= token then return { 0 } end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- What it was called while nothing was written is gone for good: other than that fields are missing,
-- nobody brings it about by hand.
redis.call('HSET', state, 'at', place, 'time', string.format('%.0f', now - ARGV[5]), 'unwritten', '')
redis.call('PEXPIRE', lease, ARGV[2])

local answer, count = { 1, '' }, 0
local before = 6
local at = before + 1 + ARGV[before]
while at <= #ARGV do
  local kind, reply = ARGV[at]
  count = count + 1
  if kind == 'p' then
    reply = pcall('PUBLISH', ARGV[at + 1], ARGV[at + 2])
    at = at + 3
  elseif kind == 'l' then
    reply = pcall('RPUSH', ARGV[before + ARGV[at + 1]], ARGV[at + 2])
    at = at + 3
  else
    local key, maxlen, length = ARGV[before + ARGV[at + 1]], ARGV[at + 2], tonumber(ARGV[at + 3])
    if maxlen == '0' then
      reply = pcall('XADD', key, '*', unpack(ARGV, at + 4, at + 3 + length))
    else
      reply = pcall('XADD', key, 'MAXLEN', '~', maxlen, '*', unpack(ARGV, at + 4, at + 3 + length))
    end
    at = at + 4 + length
  end
  if type(reply) == 'table' and reply.err then
    answer[2] = reply.err
    answer[#answer + 1] = count
  end
end
return answer
