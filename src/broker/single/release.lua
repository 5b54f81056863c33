-- Gives the lease of a channel that is single back, and tells its other daemons.
--
-- KEYS: the lease. ARGV: the daemon's token, the Redis channel of the marks.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', ARGV[2], 'free')
end
return 1
