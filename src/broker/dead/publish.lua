-- A dead letter is published and is gone: both or neither.
-- KEYS: the dead letters' stream. ARGV: the letter's id; the Redis channel.
-- The removal can't fail once it was tried on an id that no entry has, so it comes last: a
-- publication that is refused, or that nobody hears, leaves the letter where it is.
local found = redis.pcall('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if found.err then return { 'refused', 'XRANGE', found.err } end
if #found == 0 then return { 'gone' } end

local removable = redis.pcall('XDEL', KEYS[1], '0-0')
if type(removable) == 'table' then return { 'refused', 'XDEL', removable.err } end

local heard = redis.pcall('PUBLISH', ARGV[2], found[1][2][2])
if type(heard) == 'table' then return { 'refused', 'PUBLISH', heard.err } end
if heard == 0 then return { 'unheard' } end
redis.call('XDEL', KEYS[1], ARGV[1])
return { 'replayed' }
