-- Removes consumers that are long gone. DELCONSUMER drops what is pending, so that is looked at in
-- the same step. One that lives nevertheless (before Redis 7.2 a quiet one looks idle) is made again
-- by its next read.
--
-- KEYS: the stream. ARGV: group, this consumer, milliseconds.
-- Answers the names that were removed.
local removed = {}
for _, found in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local about = {}
  for i = 1, #found, 2 do about[found[i]] = found[i + 1] end
  if about.name ~= ARGV[2] and about.pending == 0 and about.idle >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], about.name)
    removed[#removed + 1] = about.name
  end
end
return removed
