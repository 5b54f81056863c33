-- Says that this consumer still works at what it has in hand, so that nobody claims it. What another
-- has claimed meanwhile isn't taken back. What was trimmed away is left out: XCLAIM would take it
-- off the pending list, and it could not be finished any more.
--
-- KEYS: the stream. ARGV: group, consumer, the lowest and the highest id in hand, then all of them.
-- Answers how many were renewed.
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]

-- Ids as numbers would lose digits; as texts of one length they compare as they are.
local function comparable(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #seq) .. seq
end

local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
if not first then return 0 end
first = comparable(first[1])
local held = {}
for i = 5, #ARGV do held[ARGV[i]] = true end
local mine = {}
for _, row in ipairs(redis.call('XPENDING', stream, group, ARGV[3], ARGV[4], 2 * #ARGV, consumer)) do
  if held[row[1]] and comparable(row[1]) >= first then mine[#mine + 1] = row[1] end
end
for at = 1, #mine, 500 do
  local ids = { unpack(mine, at, math.min(at + 499, #mine)) }
  ids[#ids + 1] = 'JUSTID'
  redis.call('XCLAIM', stream, group, consumer, 0, unpack(ids))
end
return #mine
