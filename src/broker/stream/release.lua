-- Gives entries back that were read and not handled, at an orderly stop: their delivery doesn't
-- count, and others may claim them at once. They stay in this consumer's name, which takes them up
-- first when it comes back.
--
-- KEYS: the stream. ARGV: group, consumer, the idle time to pretend in milliseconds, then the ids.
-- Answers how many were given back.
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local given = 0
for i = 4, #ARGV do
  local id = ARGV[i]
  local row = redis.call('XPENDING', stream, group, id, id, 1, consumer)[1]
  if row then
    redis.call('XCLAIM', stream, group, consumer, 0, id, 'IDLE', ARGV[3],
      'RETRYCOUNT', math.max(0, row[4] - 1), 'JUSTID')
    given = given + 1
  end
end
return given
