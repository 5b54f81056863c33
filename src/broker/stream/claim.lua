-- Takes pending entries for this consumer and answers what they hold. One that was trimmed away
-- meanwhile is acknowledged and counted: nobody can handle it any more.
--
-- KEYS: the stream.
-- ARGV: group, consumer, milliseconds (others' entries that were idle so long; empty: this
--   consumer's own, whatever their age), first id, most rows to look at, what to add to the number
--   of deliveries, from which number on (more than this) one goes alone, bytes there is room for,
--   bytes that holding an entry costs beside what it holds, and each name and value, then the ids
--   that this consumer has in hand.
-- Answers: the last id that was looked at, or nothing when there are no more; how many were trimmed;
--   how many rows were looked at; then for each entry its id, its deliveries, and its fields.
local stream, group, consumer, idle = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local limit, add, most = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local left, overhead, each = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local held = {}
for i = 11, #ARGV do held[ARGV[i]] = true end

local rows
if idle == '' then
  rows = redis.call('XPENDING', stream, group, ARGV[4], '+', limit, consumer)
else
  rows = redis.call('XPENDING', stream, group, 'IDLE', idle, ARGV[4], '+', limit)
end
local answer = { #rows == limit and rows[limit][1] or '', 0, #rows }
-- One that goes alone is delivered when its turn comes: what only waits behind it has ended nobody.
local alone = false
for at, row in ipairs(rows) do
  local id, deliveries = row[1], row[4] + add
  if not held[id] then
    local suspect = deliveries == most + 1
    if left <= 0 or (suspect and alone) then
      answer[1], answer[3] = rows[at - 1][1], at - 1
      break
    end
    alone = alone or suspect
    local claimed = redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', deliveries)
    local entry = claimed[1]
    if entry and entry[2] then
      answer[#answer + 1] = { id, deliveries, entry[2] }
      left = left - overhead
      for i = 1, #entry[2] do left = left - each - #entry[2][i] end
    else
      redis.call('XACK', stream, group, id)
      answer[2] = answer[2] + 1
    end
  end
end
return answer
